"""How much a driver delivered, how far and how fast."""

from feature_repo.transforms.measures import DELIVERED, DELIVERY_MINUTES, DISTANCE_KM, ON_TIME, TOO_SLOW
from feature_repo.transforms.spec import ViewTransform, count, mean, share
from feature_repo.window import DAY

FOUR_WEEKS = 28 * DAY

TRANSFORM = ViewTransform(
    view="driver_stats",
    key="driver_id",
    heartbeat=FOUR_WEEKS,
    features={
        "delivered_count_28d": count(DELIVERED, FOUR_WEEKS),
        "delivery_minutes_mean_28d": mean(DELIVERY_MINUTES, FOUR_WEEKS),
        "distance_km_mean_28d": mean(DISTANCE_KM, FOUR_WEEKS),
        "on_time_rate_28d": share(ON_TIME, TOO_SLOW, FOUR_WEEKS),
    },
)
