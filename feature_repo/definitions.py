"""Everything that `feast -c feature_repo apply` registers; the one file that the Feast CLI reads."""

from feast import Project

from feature_repo.entities import customer, driver, restaurant, zone
from feature_repo.on_demand import REQUEST_FEATURES, order_request, request_features
from feature_repo.services import customer_churn_v1, delivery_time_v1, delivery_time_v2
from feature_repo.views import customer_stats, driver_stats, restaurant_stats, zone_live, zone_stats

project = Project(name="delivery_eta", description="Predicts how long a food delivery takes.")
ENTITIES = [restaurant, driver, customer, zone]
BATCH_VIEWS = [restaurant_stats, driver_stats, customer_stats, zone_stats, zone_live]
ON_DEMAND_VIEWS = [request_features]
ON_DEMAND_FIELDS = {"request_features": REQUEST_FEATURES}
"""The fields of the on-demand views with their tags, which Feast does not let the views themselves carry."""
SERVICES = [delivery_time_v1, delivery_time_v2, customer_churn_v1]

__all__ = [
    "BATCH_VIEWS",
    "ENTITIES",
    "ON_DEMAND_FIELDS",
    "ON_DEMAND_VIEWS",
    "SERVICES",
    "customer",
    "customer_churn_v1",
    "customer_stats",
    "delivery_time_v1",
    "delivery_time_v2",
    "driver",
    "driver_stats",
    "order_request",
    "project",
    "request_features",
    "restaurant",
    "restaurant_stats",
    "zone",
    "zone_live",
    "zone_stats",
]
