"""Expectations on orders and on feature rows, run by Great Expectations, with results that people can read."""

from feature_repo.quality.features import validate_features
from feature_repo.quality.orders import OrdersVerdict, stopped_batch, validate_orders
from feature_repo.quality.results import RuleResult, ValidationReport
from feature_repo.quality.rules import RuleError

__all__ = [
    "OrdersVerdict",
    "RuleError",
    "RuleResult",
    "ValidationReport",
    "stopped_batch",
    "validate_features",
    "validate_orders",
]
