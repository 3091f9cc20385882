"""Reading the lake of order versions: all versions, or each order as it was known at an instant."""

from __future__ import annotations

from datetime import datetime

import polars as pl

from config import Settings
from feature_repo.orders.fold import latest
from feature_repo.orders.schema import LAKE_SCHEMA, orders_table
from feature_repo.orders.watermark import corrections
from feature_repo.request_fields import REQUEST_FIELDS
from feature_repo.window import HOUR, Window, as_utc, floor_hour


def order_versions(settings: Settings, known: Window) -> pl.LazyFrame:
    """The accepted versions with `known_at` in the window, in no particular order.

    Returns
    -------
    pl.LazyFrame
        Columns of `LAKE_SCHEMA`.
    """
    return orders_table(settings).scan(known)


def latest_orders(settings: Settings, placed: Window, as_of: datetime) -> pl.LazyFrame:
    """One row per order placed in a window: what its versions known at an instant add up to (see `fold`).

    Parameters
    ----------
    settings : Settings
    placed : Window
        Orders whose latest `placed_at` is in it are returned.
    as_of : datetime
        Versions with `known_at` after it are not seen; one known at exactly this instant is.

    Returns
    -------
    pl.LazyFrame
        Columns of `LAKE_SCHEMA`, in no particular order; `updated_at` is the latest version's, and `known_at` when the
        last of the values became known.

    Notes
    -----
    The latest version is the one with the greatest `(updated_at, known_at)`: a correction that the source recorded
    earlier but that reached us later does not win over a newer record.

    Validation holds `placed_at <= known_at <= placed_at + lateness_horizon` for every accepted version, so only the
    daily files of `[placed.start, min(as_of, placed.end + lateness_horizon)]` can hold a version that matters, and
    only these are opened. The placement filter comes after the fold: a correction that moves an order out of the window
    takes it out, instead of bringing back the version that it corrected.
    """
    as_of = as_utc(as_of)
    last = min(as_of, placed.end + settings.lateness_horizon)
    if last < placed.start:
        return pl.LazyFrame(schema=LAKE_SCHEMA)
    seen = order_versions(settings, Window(placed.start, floor_hour(last) + HOUR))
    placed_in = pl.col("placed_at").is_between(placed.start, placed.end, closed="left")
    return latest(seen.filter(pl.col("known_at") <= as_of), corrections(settings)).filter(placed_in)


def requests_as_placed(settings: Settings, placed: Window, as_of: datetime) -> pl.LazyFrame:
    """What orders told when they were placed: the request's fields of the first version that is known at `as_of`.

    Training, batch scoring and the API are to see the same: a later correction was not in the request.

    Returns
    -------
    polars.LazyFrame
        `order_id` and `REQUEST_FIELDS`, one row per order placed in the window.
    """
    if as_of < placed.start:
        return pl.LazyFrame(schema={name: LAKE_SCHEMA[name] for name in ("order_id", *REQUEST_FIELDS)})
    return (
        order_versions(settings, Window(placed.start, floor_hour(as_of) + HOUR))
        .filter(pl.col("known_at") <= as_of)
        .sort("known_at", "updated_at")
        .unique("order_id", keep="first", maintain_order=True)
        .select("order_id", *REQUEST_FIELDS)
    )
