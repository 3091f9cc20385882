"""Which column of an export may be which column of an order: by its name, unless what it holds speaks against it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from stack.profile.columns import Column

Confidence = Literal["sure", "likely"]
CONFIDENCES: tuple[Confidence, ...] = ("sure", "likely")
_ID = r"(?:id|no|nr|num|number|key|code|uuid|name)"
_WHEN = r"(?:at|time|ts|timestamp|date|datetime|on)?"


@dataclass(frozen=True, slots=True)
class Role:
    """A column of an order, and how its name is written elsewhere.

    Attributes
    ----------
    column : str
        The canonical column.
    holds : callable
        Whether a column's values may be it.
    sure, likely : str
        Patterns of a column's name in words joined by `_`.
    """

    column: str
    holds: Callable[[Column], bool]
    sure: str
    likely: str


@dataclass(frozen=True, slots=True)
class Guess:
    """A column of an export that seems to be a column of an order."""

    role: str
    column: Column
    confidence: Confidence


def _is_id(column: Column) -> bool:
    return not column.truth and (not column.is_time or column.is_number) and column.null_share < 1


def _is_time(column: Column) -> bool:
    return column.is_time


def _is_number(column: Column) -> bool:
    return column.is_number and not column.truth


def _is_word(column: Column) -> bool:
    return not column.is_time and not column.is_number and column.distinct <= 30


def _is_truth(column: Column) -> bool:
    return column.truth


def _entity(words: str) -> tuple[str, str]:
    return rf"(?:{words})_{_ID}", rf"(?:.*_)?(?:{words})(?:_{_ID})?"


ROLES = (
    Role(
        "order_id",
        _is_id,
        rf"(?:order|purchase|bestell(?:ung)?|pedido|commande|ordine)_?{_ID}",
        rf"id|order|bestellung|delivery_{_ID}",
    ),
    Role(
        "restaurant_id",
        _is_id,
        *_entity("restaurant|store|merchant|vendor|shop|venue|kitchen|outlet|branch|seller|lokal|restaurante"),
    ),
    Role(
        "driver_id",
        _is_id,
        *_entity("driver|courier|rider|dasher|delivery_person|delivery_partner|deliveryman|fahrer|kurier|repartidor"),
    ),
    Role("customer_id", _is_id, *_entity("customer|consumer|user|client|buyer|eater|guest|kunde|kunden|cliente")),
    Role("zone_id", _is_id, *_entity("zone|region|delivery_region|area|district|market|city|submarket|bezirk|zona")),
    Role(
        "placed_at",
        _is_time,
        rf"(?:order_)?(?:placed|created|ordered|bestellt|order)_?{_WHEN}|order_placed_{_WHEN}|created",
        r"(?:customer_)?(?:placed|created|purchase|checkout|submitted|bestell\w*)(?:_order)?_.*|time_ordere?d?",
    ),
    Role(
        "accepted_at",
        _is_time,
        rf"(?:order_)?(?:accepted|confirmed|acknowledged|angenommen)_?{_WHEN}",
        r".*(?:accepted|confirmed|acknowledged|placed_order_with).*",
    ),
    Role(
        "picked_up_at",
        _is_time,
        rf"(?:order_)?(?:picked_?up|pick_?up|picked|collected|abgeholt)_?{_WHEN}",
        r".*(?:picked|pickup|pick_up|collected|left_restaurant|out_for_delivery).*",
    ),
    Role(
        "delivered_at",
        _is_time,
        rf"(?:order_)?(?:actual_)?(?:delivered|delivery|dropped_off|geliefert|zugestellt|entregado)_?{_WHEN}",
        r".*(?:delivered|dropoff|drop_off|completed|handed_over|geliefert).*",
    ),
    Role("cancelled_at", _is_time, rf"(?:order_)?cancell?ed_?{_WHEN}|storniert_?{_WHEN}", r".*cancel.*|.*storn.*"),
    Role("updated_at", _is_time, rf"(?:last_)?(?:updated|modified|changed)_?{_WHEN}", r".*(?:updated|modified).*"),
    Role("status", _is_word, r"(?:order_)?(?:status|state)", r".*(?:status|state)"),
    Role("is_asap", _is_truth, r"(?:is_)?(?:asap|immediate|sofort)", r".*asap.*"),
    Role(
        "distance_km", _is_number, r"(?:delivery_)?distance_(?:km|kilomet\w+)", r".*(?:distance|strecke|entfernung).*"
    ),
    Role(
        "item_count",
        lambda column: _is_number(column) and column.whole,
        r"(?:total_|num_|number_of_)?items?(?:_count|_quantity)?|item_count|quantity",
        r".*(?:items|positions|artikel|dishes).*",
    ),
    Role(
        "order_value",
        _is_number,
        r"(?:order_)?(?:value|total|amount|subtotal|price)|total_(?:price|amount|value)",
        r"(?!.*(?:tip|discount|refund|fee|tax|item|min_|max_)).*(?:total|amount|value|price|betrag|summe).*",
    ),
    Role(
        "promised_minutes",
        lambda column: _is_number(column) or column.is_time,
        r"(?:promised|estimated|expected|eta|quoted)(?:_delivery)?(?:_time)?_min(?:utes|s)?",
        r"eta|(?!.*(?:place|driving|prep|pick)).*(?:promised|estimated|expected|quoted|sla).*(?:deliver|arriv|minut|time).*",
    ),
)


def words_of(name: str) -> str:
    """A column's name in lower-case words joined by `_`: `OrderID`, `Order Id` and `order-id` are `order_id`."""
    parted = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name))
    return re.sub(r"[^0-9a-zäöüßéèñç]+", "_", parted.casefold()).strip("_")


def assign(columns: Sequence[Column]) -> list[Guess]:
    """At most one column for each role, and one role for each column; the surest first."""
    candidates = [
        (rank, number, place, Guess(role.column, column, CONFIDENCES[rank]))
        for number, role in enumerate(ROLES)
        for place, column in enumerate(columns)
        if role.holds(column)
        for rank, pattern in enumerate((role.sure, role.likely))
        if re.fullmatch(pattern, words_of(column.name))
    ]
    taken_roles: set[str] = set()
    taken: set[str] = set()
    found = []
    for *_, guess in sorted(candidates, key=lambda each: each[:3]):
        if guess.role not in taken_roles and guess.column.name not in taken:
            taken_roles.add(guess.role)
            taken.add(guess.column.name)
            found.append(guess)
    return found
