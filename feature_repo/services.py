"""Which features a model takes. A changed list is a new version, never an edit of one that a model was trained on."""

from feast import FeatureService

from feature_repo.on_demand import request_features
from feature_repo.views import customer_stats, driver_stats, restaurant_stats, zone_live, zone_stats

ENTITIES = [
    restaurant_stats,
    driver_stats,
    # Not the segment, a word made of the counts beside it; nor the lifetime sums, which grow with the age of the
    # marketplace and so leave the range that any model was trained on.
    customer_stats[
        [
            "order_count_30d",
            "order_value_sum_30d",
            "order_value_mean_30d",
            "days_since_last_order",
        ]
    ],
]
DELIVERY_TIME = {"owner": "marketplace-data", "model": "delivery_time"}

delivery_time_v1 = FeatureService(
    name="delivery_time_v1",
    features=[*ENTITIES, zone_stats, request_features],
    description="Inputs of the model that predicts how many minutes a delivery takes, at the instant of the order.",
    tags=DELIVERY_TIME,
)

delivery_time_v2 = FeatureService(
    name="delivery_time_v2",
    features=[
        *ENTITIES,
        # Of the last full hour it would tell nothing that the live view does not tell better.
        zone_stats[["order_count_7d", "delivery_minutes_mean_24h", "delivery_minutes_mean_7d"]],
        zone_live,
        request_features,
    ],
    description="As delivery_time_v1, with the congestion of the zone at this moment in place of the last full hour's.",
    tags=DELIVERY_TIME,
)

customer_churn_v1 = FeatureService(
    name="customer_churn_v1",
    # The lifetime sums are left out as above; the segment is a word, so no input, but parts of the rows are told by it.
    features=[
        customer_stats[
            ["order_count_30d", "order_value_sum_30d", "order_value_mean_30d", "days_since_last_order", "segment"]
        ]
    ],
    description="Inputs of a model that predicts whether a customer stays away.",
    tags={"owner": "marketplace-data", "model": "customer_churn"},
)
