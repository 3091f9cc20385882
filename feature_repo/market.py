"""By which clock an installation's market lives: whose hours of the day, weekdays and peak hours the features name.

Orders, tiles and windows are in UTC all the same. A model keeps the clock that it was trained by; what this module says
is for training, and for whoever asks Feast for `request_features`.
"""

from __future__ import annotations

import json

from config import Settings
from config.zones import time_zone
from feature_repo.orders.columns import mapping_record
from feature_repo.transforms.request_time import Clock

__all__ = ["MarketError", "clock"]

DEFAULT_ZONE = "UTC"


class MarketError(ValueError):
    """The landing folder names no usable zone; the message names the file and what to do."""


def clock(settings: Settings) -> Clock:
    """The clock of this installation's market.

    The zone is `ETA_MARKET_ZONE`, else the one that the last ingestion noted with its mapping, else UTC.

    Raises
    ------
    MarketError
    """
    return Clock(settings.market_zone or _noted_zone(settings) or DEFAULT_ZONE, settings.peak_hours)


def _noted_zone(settings: Settings) -> str | None:
    path = mapping_record(settings)
    try:
        noted = json.loads(path.read_text()).get("market_zone")
        return None if noted is None else time_zone(str(noted))
    except FileNotFoundError:
        return None
    except (ValueError, AttributeError, TypeError) as error:
        raise MarketError(
            f"{path} does not say which zone the market's clock is of ({error}): run `make ingest` again with its "
            "mapping, or set ETA_MARKET_ZONE"
        ) from error
