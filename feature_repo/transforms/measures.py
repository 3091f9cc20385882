"""The measures that views share: which fact counts, which integer of it is added up, and in what unit it is told."""

from feature_repo.transforms import facts
from feature_repo.transforms.spec import Measure

PLACED = Measure("placed", facts.PLACED)
PLACED_AT = Measure("placed_second", facts.PLACED, "placed_second")
ORDER_VALUE = Measure("value_cents", facts.PLACED, "value_cents", per_unit=100)
ACCEPTED = Measure("accepted", facts.ACCEPTED)
DECLINED = Measure("declined", facts.DECLINED)
DELIVERED = Measure("delivered", facts.DELIVERED)
DELIVERY_MINUTES = Measure("delivery_seconds", facts.DELIVERED, "delivery_seconds", per_unit=60)
PREPARATION_MINUTES = Measure("preparation_seconds", facts.PICKED_UP, "preparation_seconds", per_unit=60)
DISTANCE_KM = Measure("distance_metres", facts.DELIVERED, "distance_metres", per_unit=1000)
ON_TIME = Measure("on_time", facts.DELIVERED, "on_time")
TOO_SLOW = Measure("too_slow", facts.DELIVERED, "too_slow")
CLOSED = Measure("closed", facts.CLOSED)
ABANDONED = Measure("abandoned", facts.ABANDONED)
ASAP_PLACED = Measure("asap_placed", facts.PLACED, "asap")
ASAP_CLOSED = Measure("asap_closed", facts.CLOSED, "asap")
ASAP_ABANDONED = Measure("asap_abandoned", facts.ABANDONED, "asap")
SHIFT_BEGAN = Measure("shift_began", facts.SHIFT_BEGAN)
SHIFT_ENDED = Measure("shift_ended", facts.SHIFT_ENDED)
