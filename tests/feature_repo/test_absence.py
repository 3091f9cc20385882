"""What a source lacks, and what is lost by it: what the definitions say is what happens to the tiles."""

from __future__ import annotations

import json

import polars as pl
import pytest

from config import Settings
from feature_repo.absence import input_losses, views_without_rows
from feature_repo.orders.columns import DERIVED, absent_columns, mapping_record
from feature_repo.orders.mapping_file import Mapping
from feature_repo.orders.schema import LANDING_SCHEMA
from feature_repo.transforms import compute
from feature_repo.transforms.facts import NEEDED_COLUMNS
from feature_repo.transforms.views import TRANSFORMS
from tests.feature_repo.transforms import histories

OPTIONAL = sorted({column for columns in NEEDED_COLUMNS.values() for column in columns})


def note_mapped(settings: Settings, columns: list[str]) -> None:
    settings.landing_orders.mkdir(parents=True, exist_ok=True)
    mapping_record(settings).write_text(json.dumps({"name": "mine", "hash": "x", "columns": columns}))


def empty_partials(history: list[dict], settings: Settings) -> set[tuple[str, str]]:
    """Views and columns of tiles in which nothing was ever counted."""
    window = histories.write_lake(history, settings)
    tiles = compute.compute_tiles(window, settings)
    return {
        (view, partial.column)
        for view, frame in tiles.items()
        for partial in TRANSFORMS[view].partials
        if not frame[partial.column].sum()
    }


@pytest.mark.parametrize("column", OPTIONAL)
def test_what_is_said_to_need_a_column_is_what_is_never_seen_without_it(column: str, settings: Settings) -> None:
    history = [version | {column: None} for version in histories.random_history(seed=4, days=4)]
    note_mapped(settings, [name for name in LANDING_SCHEMA if name != column])
    expected = {
        (view, partial.column)
        for view, transform in TRANSFORMS.items()
        for partial in transform.partials
        if column == transform.key
        or {part for part in (partial.measure.fact, partial.measure.value) if column in NEEDED_COLUMNS.get(part, ())}
    }
    assert empty_partials(history, settings) == expected


def test_with_every_column_something_of_everything_is_seen(settings: Settings) -> None:
    assert empty_partials(histories.random_history(seed=4, days=4), settings) == set()


@pytest.mark.parametrize(
    ("absent", "without_value", "poorer"),
    [
        ([], [], []),
        (["item_count"], ["item_count"], []),
        (["promised_minutes"], ["driver_stats__on_time_rate_28d"], []),
        (["distance_km"], ["driver_stats__distance_km_mean_28d", "distance_km"], []),
        (["order_value", "customer_id"], ["request_features__order_value_to_restaurant_mean", "order_value"], []),
        (["driver_id"], ["driver_stats__delivered_count_28d"], ["zone_live__active_driver_count"]),
        (["accepted_at"], ["restaurant_stats__acceptance_rate_7d"], []),
    ],
)
def test_inputs_that_a_model_loses(absent: list[str], without_value: list[str], poorer: list[str]) -> None:
    losses = input_losses("delivery_time_v2", absent)
    assert set(without_value) <= set(losses.without_value)
    assert bool(without_value) == bool(losses.without_value)
    assert set(poorer) <= set(losses.poorer)
    assert bool(poorer) == bool(losses.poorer)


def test_a_view_without_its_key_has_no_rows() -> None:
    assert views_without_rows(["zone_id", "order_value"]) == {"zone_stats": "zone_id", "zone_live": "zone_id"}


@pytest.mark.parametrize("nothing", [None, "NULL", " null "])
def test_a_constant_null_maps_nothing(nothing: str | None) -> None:
    columns = {"order_id": "a", "restaurant_id": "b", "placed_at": "c", "driver_id": nothing, "zone_id": "d"}
    versions = [{"name": "late", "columns": {"delivered_at": "e", "zone_id": nothing}}]
    mapping = Mapping(name="mine", read={"format": "csv"}, columns=columns, versions=versions)
    assert mapping.mapped == ["order_id", "restaurant_id", "placed_at", "zone_id", "delivered_at"]


def test_where_nothing_has_landed_nothing_is_known_to_be_absent(settings: Settings) -> None:
    assert absent_columns(settings) == ()


def test_what_is_mapped_is_not_absent_even_if_it_is_empty(settings: Settings) -> None:
    note_mapped(settings, [name for name in LANDING_SCHEMA if name not in ("zone_id", "distance_km", *DERIVED)])
    land(settings, "a", LANDING_SCHEMA)
    assert absent_columns(settings) == ("zone_id", "distance_km")


def test_without_a_mapping_a_column_is_absent_that_no_file_has(settings: Settings) -> None:
    land(settings, "a", [name for name in LANDING_SCHEMA if name not in ("zone_id", "driver_id", "arrived_at")])
    assert absent_columns(settings) == ("driver_id", "zone_id")
    land(settings, "b", ["order_id", "driver_id"])
    assert absent_columns(settings) == ("zone_id",)
    mapping_record(settings).write_text(json.dumps({"name": "of an earlier release", "hash": "x"}))
    assert absent_columns(settings) == ("zone_id",)


def land(settings: Settings, name: str, columns: list[str]) -> None:
    folder = settings.landing_orders / "day=2026-05-01"
    folder.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(schema={column: LANDING_SCHEMA[column] for column in columns}).write_parquet(
        folder / f"{name}.parquet"
    )
