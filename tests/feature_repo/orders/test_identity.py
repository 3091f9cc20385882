"""Ids that a source uses for several orders: refused and counted, over the whole source."""

from __future__ import annotations

import pytest
import yaml

from feature_repo.orders.mapping import bring_in
from feature_repo.orders.mapping_file import MappingError

COLUMNS = {
    "order_id": "ticket",
    "restaurant_id": "shop",
    "placed_at": "placed",
    "delivered_at": "delivered",
    "updated_at": "updated",
}
DAYS = [f"2026-05-{day:02d}" for day in range(4, 9)]


@pytest.fixture
def ingest(tmp_path, settings):
    """Bring in lines of ticket, shop, placed, delivered, updated."""

    def run(lines, max_share=0.2, **columns):
        mapping, orders = tmp_path / "mapping.yaml", tmp_path / "orders.csv"
        content = {"name": "till", "read": {"format": "csv"}, "columns": COLUMNS | columns}
        mapping.write_text(yaml.safe_dump(content | {"quarantine": {"max_share": max_share}}))
        orders.write_text("\n".join(["ticket,shop,placed,delivered,updated", *lines]) + "\n")
        return bring_in(str(orders), mapping, settings)

    return run


def line(ticket, placed, updated, shop="r1", delivered=""):
    return f"{ticket},{shop},{placed},{delivered},{updated}"


FIRST = line(1, "2026-05-04 12:00:31", "2026-05-04 12:00:31")


@pytest.mark.parametrize(
    ("second", "refused"),
    [
        (line(1, "2026-05-04 12:00:31", "2026-05-04 12:30:00"), 0),
        (line(1, "2026-05-04 12:00:00", "2026-05-04 12:30:00"), 0),  # cut to minutes
        (line(1, "2026-05-04 12:01:00", "2026-05-04 12:30:00"), 0),  # rounded to minutes
        (line(1, "2026-05-04 12:01:31", "2026-05-04 12:30:00"), 0),
        (line(1, "2026-05-04 12:01:32", "2026-05-04 12:30:00"), 1),
        (line(1, "2026-05-05 12:00:31", "2026-05-05 12:30:00"), 1),
        (line(1, "2027-05-04 12:00:31", "2027-05-04 12:30:00"), 1),  # however much later
        (line(1, "2026-05-04 12:00:31", "2026-05-04 12:30:00", shop="r2"), 1),
        (line(2, "2026-05-04 12:09:31", "2026-05-04 12:30:00", shop="r2"), 0),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_versions_of_another_restaurant_or_placing_are_refused_whatever_the_order_of_rows(
    ingest, second, refused, order
):
    report = ingest([FIRST, second][::order], max_share=0.5)
    assert (report.landed, report.refused) == (2 - refused, {"order_changed": 1} if refused else {})


def test_the_reason_names_both_rows(ingest):
    report = ingest([FIRST, line(1, "2026-05-05 12:00:31", "2026-05-05 12:30:00", shop="r2")], max_share=0.5)
    assert report.examples == [
        'order_id "1": row 2 of the source has restaurant_id r2 and placed_at 2026-05-05 12:00:31, its first version '
        "(row 1) has r1 and 2026-05-04 12:00:31; an order keeps both: map an order_id that no two orders share"
    ]


def restarting(tickets):
    return [line(n, f"{day} 12:{n:02d}:00", f"{day} 13:{n:02d}:00") for day in DAYS for n in range(tickets)]


def test_numbers_that_restart_land_nothing_and_the_advice_given_helps(ingest, settings):
    with pytest.raises(MappingError) as told:
        ingest(restarting(20))
    assert "80 of 100 order versions do not convert (80 order_changed)" in str(told.value)
    assert "The numbers seem to restart: make order_id unique" in str(told.value)
    assert not list(settings.landing_orders.glob("day=*"))
    advice = str(told.value).split("`order_id: ")[1].split("`")[0]
    report = ingest(restarting(20), order_id=advice)
    assert (report.landed, report.refused) == (100, {})


def test_identical_rows_and_refused_ones_are_nobodys_first(ingest):
    broken = line(1, "2026-05-03 09:00:00", "2026-05-03 10:00:00", delivered="soon")
    report = ingest([broken, FIRST, FIRST, line(1, "2026-05-04 12:00:31", "2026-05-04 12:30:00")], max_share=0.5)
    assert (report.landed, report.duplicates, report.refused) == (2, 1, {"unparsable": 1})
