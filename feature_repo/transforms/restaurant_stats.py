"""How busy a restaurant is, and how long its orders take."""

from feature_repo.transforms.measures import (
    ACCEPTED,
    DECLINED,
    DELIVERY_MINUTES,
    ORDER_VALUE,
    PLACED,
    PREPARATION_MINUTES,
)
from feature_repo.transforms.spec import WEEK, ViewTransform, count, mean, share, std
from feature_repo.window import DAY

FOUR_WEEKS = 28 * DAY

TRANSFORM = ViewTransform(
    view="restaurant_stats",
    key="restaurant_id",
    heartbeat=FOUR_WEEKS,
    features={
        "order_count_7d": count(PLACED, WEEK),
        "delivery_minutes_mean_7d": mean(DELIVERY_MINUTES, WEEK),
        "delivery_minutes_mean_28d": mean(DELIVERY_MINUTES, FOUR_WEEKS),
        "delivery_minutes_std_28d": std(DELIVERY_MINUTES, FOUR_WEEKS),
        "preparation_minutes_mean_7d": mean(PREPARATION_MINUTES, WEEK),
        "preparation_minutes_mean_28d": mean(PREPARATION_MINUTES, FOUR_WEEKS),
        "preparation_minutes_std_28d": std(PREPARATION_MINUTES, FOUR_WEEKS),
        "order_value_mean_28d": mean(ORDER_VALUE, FOUR_WEEKS),
        "acceptance_rate_7d": share(ACCEPTED, DECLINED, WEEK),
    },
)
