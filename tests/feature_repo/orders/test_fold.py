"""What was known stays known: `latest_orders` and the states behind facts, against brute force."""

from __future__ import annotations

import random
from datetime import timedelta

import polars as pl
import pytest
import yaml

from config import Settings
from feature_repo.orders import fold, latest_orders, orders_table, read_landing
from feature_repo.orders.mapping import bring_in
from feature_repo.orders.schema import LAKE_SCHEMA
from feature_repo.transforms import fold as on_engine
from feature_repo.transforms.engine import engine, evaluate, hand_over
from feature_repo.window import HOUR, Window
from tests.feature_repo.orders.builders import NOON, lake_frame, minutes, placed, version
from tests.feature_repo.transforms import oracle

SHOWN = ["order_id", "known_at", *on_engine.TOLD]


def latest(*rows):
    return fold.latest(lake_frame(*rows).lazy()).collect().to_dicts()[0]


def at(minute, **changes):
    return placed(updated_at=NOON + minutes(minute), **changes)


DELIVERED = version(updated_at=NOON + minutes(30))


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        # The courier's phone was without network: its event comes last and knows nothing of the delivery.
        (at(34, status="picked_up", picked_up_at=NOON + minutes(15)), DELIVERED),
        (at(34, status="accepted"), DELIVERED),
        (at(34, status="placed", customer_id=None, zone_id=None, order_value=None, is_asap=None), DELIVERED),
        # Another value is a correction.
        (version(updated_at=NOON + minutes(34), delivered_at=NOON + minutes(33)), {"delivered_at": NOON + minutes(33)}),
        (at(34, driver_id="d2", status="picked_up"), {"driver_id": "d2", "status": "delivered"}),
        # What was recorded last of two ends holds.
        (at(34, status="cancelled", cancelled_at=NOON + minutes(33)), {"status": "cancelled"}),
    ],
)
def test_a_later_version_takes_nothing_back(later, expected):
    found = latest(placed(), DELIVERED, later)
    compared = {name: value for name, value in expected.items() if name in LAKE_SCHEMA and name != "updated_at"}
    assert {name: found[name] for name in compared} == compared


def test_an_order_that_was_cancelled_and_then_delivered_is_delivered():
    cancelled = at(10, status="cancelled", cancelled_at=NOON + minutes(10))
    found = latest(cancelled, DELIVERED)
    assert (found["status"], found["cancelled_at"]) == ("delivered", NOON + minutes(10))


def test_an_older_record_that_comes_late_adds_what_was_unknown_and_corrects_nothing():
    newest = at(40, status="picked_up", order_value=7.0)
    late = version(updated_at=NOON + minutes(30), arrived_at=NOON + minutes(90), order_value=1.0)
    found = latest(newest, late)
    assert (found["status"], found["delivered_at"], found["order_value"]) == ("delivered", NOON + minutes(30), 7.0)
    assert found["known_at"] == NOON + minutes(90), "its delivery was not known before"
    assert found["updated_at"] == NOON + minutes(40)


@pytest.mark.parametrize(("told", "meant"), [((None,), True), ((False, None), False), ((None, False), False)])
def test_whether_an_order_is_for_now_means_one_thing(told, meant):
    assert latest(*(at(minute, is_asap=value) for minute, value in enumerate(told)))["is_asap"] is meant


def test_an_id_that_has_come_back_does_not_take_over_the_former_order():
    before = version(placed_at=NOON - timedelta(days=5), updated_at=NOON - timedelta(days=4))
    found = latest(before, placed(order_value=None))
    assert (found["status"], found["delivered_at"], found["order_value"]) == ("placed", None, None)


TIMES = ("accepted_at", "picked_up_at", "delivered_at", "cancelled_at")


def history(dice, order):
    """Versions of an order that tell what they like, recorded in any order, some at once, some known late."""
    for value in range(dice.randint(1, 5)):
        at = NOON + minutes(dice.randint(0, 4))
        told = {name: dice.choice([at, None]) for name in TIMES}
        choices = {
            "status": list(oracle.RANKS),
            "driver_id": ["d1", "d2", None],
            "zone_id": ["z1", None],
            "is_asap": [True, False, None],
            "order_value": [float(value), None],
            "placed_at": [NOON, NOON, NOON + timedelta(seconds=40)],
        }
        chosen = {name: dice.choice(values) for name, values in choices.items()}
        known = at + minutes(dice.choice([0, 0, 0, 2, 5]))
        yield placed(order, **told, **chosen, updated_at=at, arrived_at=known)


@pytest.fixture(scope="module", params=[1, 2, 3])
def versions(request):
    """By order, the versions of many."""
    dice = random.Random(request.param)
    return {f"o{number}": lake_frame(*history(dice, f"o{number}")).to_dicts() for number in range(150)}


CORRECTIONS = [(), ("status", "delivered_at", "zone_id"), fold.CORRECTABLE]


@pytest.mark.parametrize("corrections", CORRECTIONS)
def test_latest_equals_brute_force(versions, corrections):
    frame = pl.DataFrame([row for rows in versions.values() for row in rows], schema=LAKE_SCHEMA)
    names = [name for name in LAKE_SCHEMA if name not in ("updated_at", "known_at")]
    found = {row["order_id"]: row for row in fold.latest(frame.lazy(), corrections).collect().to_dicts()}
    assert set(found) == set(versions)
    for order, rows in versions.items():
        expected = oracle.state(rows, corrections)
        assert {name: found[order][name] for name in names} == {name: expected[name] for name in names}
        assert found[order]["known_at"] == known_since(rows, corrections)


def known_since(versions, corrections):
    """When everything in a row had been told by some version, the last one among them."""
    latest = max(versions, key=lambda row: (row["updated_at"], row["known_at"]))
    for instant in sorted({row["known_at"] for row in versions}):
        seen = [row for row in versions if row["known_at"] <= instant]
        everything = latest in seen and all(
            told(seen, versions, name) for name in fold.FOLDED if name not in corrections
        )
        if everything and ("status" in corrections or furthest(versions) in seen):
            return instant
    raise AssertionError("never")


def told(seen, versions, name):
    """Whether the last of the versions that tell of a column is among those that are seen."""
    telling = [row for row in versions if row[name] is not None]
    return not telling or last(telling) in seen


def furthest(versions):
    top = max(oracle.RANKS[row["status"]] for row in versions)
    return last([row for row in versions if oracle.RANKS[row["status"]] == top])


def last(versions):
    return oracle._sorted(versions, list(fold.RECORD_ORDER))[-1]


@pytest.mark.parametrize("corrections", CORRECTIONS)
def test_states_equal_brute_force(versions, tmp_path, corrections):
    rows = pl.DataFrame([row for rows in versions.values() for row in rows], schema=LAKE_SCHEMA)
    with engine(Settings(data_dir=tmp_path)) as connection:
        table = hand_over(connection, rows, "versions")
        tangled = on_engine.tangled_orders(connection, table)
        orders = None if tangled.is_empty() else hand_over(connection, tangled, "tangled")
        made = evaluate(connection, on_engine.states, [table, orders], frozenset(corrections))
    own_id = pl.col("order_id").str.split("\x1f").list.first()
    states = made.sort("position").with_columns(own_id, pl.col("is_asap").fill_null(True)).to_dicts()
    for order, rows in versions.items():
        found = [{name: state[name] for name in SHOWN} for state in states if state["order_id"] == order]
        assert found == [{name: state[name] for name in SHOWN} for state in oracle.states(rows, corrections)]


def test_an_ingestion_counts_the_orders_that_go_backwards_and_takes_back_what_the_mapping_allows(tmp_path):
    lines = [
        "id,shop,status,placed,delivered,seen",
        "1,r1,placed,2026-05-04 12:00,,2026-05-04 12:00",
        "1,r1,delivered,2026-05-04 12:00,2026-05-04 12:31,2026-05-04 12:31",
        "1,r1,picked_up,2026-05-04 12:00,,2026-05-04 12:35",
        "2,r1,placed,2026-05-04 12:00,,2026-05-04 12:00",
        "2,r1,delivered,2026-05-04 12:00,2026-05-04 12:40,2026-05-04 12:40",
    ]
    (tmp_path / "orders.csv").write_text("\n".join(lines) + "\n")
    columns = {"order_id": "id", "restaurant_id": "shop", "status": "status", "placed_at": "placed"}
    columns |= {"delivered_at": "delivered", "updated_at": "seen"}
    cases = [(False, 1), (["delivered_at", "status"], 0), (["delivered_at"], 1), (True, 0)]
    for number, (corrections, count) in enumerate(cases):
        content = {"name": "log", "read": {"format": "csv"}, "columns": columns, "corrections": corrections}
        (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(content))
        settings = Settings(data_dir=tmp_path / str(number))
        report = bring_in(str(tmp_path / "orders.csv"), tmp_path / "mapping.yaml", settings)
        assert report.withdrawn == count
        assert ("1 orders have a later row that lacks" in report.summary()) == bool(count)
        window = Window(NOON, NOON + HOUR)
        orders_table(settings).replace(window, read_landing(window, settings).select(list(LAKE_SCHEMA)))
        ends = latest_orders(settings, window, window.end).sort("order_id").collect()["delivered_at"].to_list()
        assert ends == [None if corrections else NOON + minutes(31), NOON + minutes(40)]


@pytest.mark.parametrize("wrong", ["placed_at", "restaurant_id", "order_id", "delivery"])
def test_what_makes_an_order_cannot_be_taken_back(wrong):
    with pytest.raises(ValueError, match=rf"\['{wrong}'\] cannot be taken back, only \['status', 'accepted_at'"):
        fold.correctable([wrong])
