"""Features of the request itself: computed when an order is placed, by the same function offline and online."""

import pandas as pd
from feast import Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, UnixTimestamp

from feature_repo.request_fields import FIELDS
from feature_repo.views import field, restaurant_stats

order_request = RequestSource(
    name="order_request",
    schema=[
        field("placed_at", UnixTimestamp, "instant", "when the order is placed; the instant of the prediction"),
        *[
            field(
                one.name,
                Int64 if one.whole else Float64,
                one.unit,
                one.description,
                minimum=one.minimum,
                maximum=one.maximum,
            )
            for one in FIELDS
        ],
    ],
    description="What is known about an order at the instant at which it is placed.",
)


REQUEST_FEATURES = [
    field("hour_of_day_sin", Float64, "sine", "sine of the market's hour of the day", minimum=-1, maximum=1),
    field("hour_of_day_cos", Float64, "cosine", "cosine of the market's hour of the day", minimum=-1, maximum=1),
    field("day_of_week_sin", Float64, "sine", "sine of the market's day of the week", minimum=-1, maximum=1),
    field("day_of_week_cos", Float64, "cosine", "cosine of the market's day of the week", minimum=-1, maximum=1),
    field("is_peak_hour", Int64, "flag", "1 in the market's hours of lunch and dinner", minimum=0, maximum=1),
    field(
        "order_value_to_restaurant_mean",
        Float64,
        "ratio",
        "order value over the restaurant's mean order value of 28 days",
        minimum=0,
    ),
]


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    sources=[order_request, restaurant_stats[["order_value_mean_28d"]]],
    # Without tags: Feast 0.67 infers the fields from a trial call and refuses any that differ, in tags too.
    schema=[Field(name=one.name, dtype=one.dtype) for one in REQUEST_FEATURES],
    mode="pandas",
    description="The request's calendar by the market's clock, and its value beside the restaurant's usual one.",
    tags={"owner": "marketplace-data", "grain": "one row per request", "freshness": "at request time"},
)
def request_features(inputs: pd.DataFrame) -> pd.DataFrame:
    """One call of the function that serving calls too. Feast stores this body's source, so its imports are inside."""
    import pandas as pd

    from config import get_settings
    from feature_repo import market
    from feature_repo.transforms import request_time

    placed_at = pd.to_datetime(inputs["placed_at"], utc=True).to_numpy(dtype="datetime64[us]")
    columns = request_time.compute(
        placed_at.astype("int64") / 1_000_000,
        inputs["order_value"].to_numpy(dtype="float64", na_value=float("nan")),
        inputs["order_value_mean_28d"].to_numpy(dtype="float64", na_value=float("nan")),
        market.clock(get_settings()),
    )
    return pd.DataFrame(columns, index=inputs.index)
