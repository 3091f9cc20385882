"""What an order tells when it is placed: the list from which files, API, log, batch scoring and training take it.

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
        Inclusive. A row of a file that is outside goes to the quarantine, a request is refused. Upper limits are such
        that no sum of two years overflows, and far beyond what is usual: currencies differ.
    whole : bool
        Whether it is a whole number.
    """

    name: str
    unit: str
    description: str
    minimum: float
    maximum: float
    whole: bool = False

    @property
    def bounds(self) -> str:
        """The limits in words."""
        if self.maximum < 10_000:
            return f"{self.minimum:g} to {self.maximum:g}"
        return f"at least {self.minimum:g}, at most {self.maximum:,}"


FIELDS = (
    RequestField("distance_km", "kilometres", "distance to the customer", 0, 100),
    RequestField("item_count", "items", "number of items ordered", 1, 1_000_000, whole=True),
    RequestField("order_value", "currency", "value of the order", 0, 1_000_000_000),
    RequestField("promised_minutes", "minutes", "what the customer was told, from placing on", 0, 30 * 24 * 60),
)
REQUEST_FIELDS = tuple(field.name for field in FIELDS)
