"""The steps from landed orders to online features: plain functions of a window of time and the settings.

Each step returns a small dict that fits into JSON. Frames travel between steps as staged files, so a step can run in a
process of its own and be run again. The DAGs call the steps one by one; `run_window` and `backfill` call them all.

    ingest_orders -> validate_orders -> accept_orders -> compute_features -> validate_features -> publish_features
                          |                                                                             |
                    quarantine_batch                                              audit_online <- materialize
"""

from feature_repo.pipeline.errors import (
    BatchStopped,
    LandingLost,
    NotComputedAgain,
    OnlineStoreUnavailable,
    Progress,
    Result,
    StepMissing,
)
from feature_repo.pipeline.evolve import backfill_features, rebuild
from feature_repo.pipeline.first_day import nothing_computed, nothing_landed
from feature_repo.pipeline.online import audit_all, audit_online, materialize, reconcile
from feature_repo.pipeline.runs import (
    backfill,
    close_gap,
    recompute_features,
    refusals,
    require_definitions,
    run_window,
)
from feature_repo.pipeline.steps import (
    accept_orders,
    compute_features,
    ingest_orders,
    publish_features,
    quarantine_batch,
    validate_features,
    validate_orders,
)

__all__ = [
    "BatchStopped",
    "LandingLost",
    "NotComputedAgain",
    "OnlineStoreUnavailable",
    "Progress",
    "Result",
    "StepMissing",
    "accept_orders",
    "audit_all",
    "audit_online",
    "backfill",
    "backfill_features",
    "close_gap",
    "compute_features",
    "ingest_orders",
    "materialize",
    "nothing_computed",
    "nothing_landed",
    "publish_features",
    "quarantine_batch",
    "rebuild",
    "recompute_features",
    "reconcile",
    "refusals",
    "require_definitions",
    "run_window",
    "validate_features",
    "validate_orders",
]
