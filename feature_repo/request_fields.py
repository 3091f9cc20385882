"""What an order tells when it is placed: the list from which API, log, batch scoring and training take their fields.

A field is a column of an order (`orders.schema`) and an input of each model whose feature service has the request's
features. One that a source does not have is missing in training and in serving alike.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RequestField:
    """A number that is known at the instant of the order.

    Attributes
    ----------
    name, unit, description : str
    minimum, maximum : float
        Inclusive, of what the API takes.
    whole : bool
        Whether it is a whole number.
    """

    name: str
    unit: str
    description: str
    minimum: float
    maximum: float
    whole: bool = False


FIELDS = (
    RequestField("distance_km", "kilometres", "distance to the customer", 0, 100),
    RequestField("item_count", "items", "number of items ordered", 1, 1_000, whole=True),
    RequestField("order_value", "currency", "value of the order", 0, 100_000),
    RequestField("promised_minutes", "minutes", "what the customer was told, from placing to delivery", 0, 10_080),
)
REQUEST_FIELDS = tuple(field.name for field in FIELDS)
