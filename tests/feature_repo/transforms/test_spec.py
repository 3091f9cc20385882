"""Finishing expressions on literal sums."""

from __future__ import annotations

import statistics

import ibis
import pytest

from feature_repo.transforms.spec import Measure, mean, share, std, total
from feature_repo.window import DAY

VALUE = Measure("value", "placed", "value_cents", per_unit=100)
ORDERS = Measure("orders", "placed")


def finish(feature, *sums: int) -> float | None:
    table = ibis.memtable({f"c{number}": [value] for number, value in enumerate(sums)})
    expression = feature.finish(*[table[name] for name in table.columns])
    return ibis.duckdb.connect().to_polars(table.select(answer=expression))["answer"].to_list()[0]


def sums_of(values: list[int]) -> tuple[int, int, int]:
    return len(values), sum(values), sum(value * value for value in values)


@pytest.mark.parametrize(
    "values",
    [
        [1, 2],
        [60, 60, 60],
        [0, 86_400],
        [10**9 + shift for shift in (0, 1, 2, 3)],
        [86_399, 86_400] * 50_000,
    ],
    ids=["two", "equal", "wide", "large and close", "many"],
)
def test_the_spread_is_that_of_the_values_however_large_they_are(values):
    expected = statistics.stdev(values) / 100
    assert finish(std(VALUE, DAY), *sums_of(values)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_one_value_has_no_spread_and_none_has_no_mean():
    assert finish(std(VALUE, DAY), *sums_of([500])) is None
    assert finish(std(VALUE, DAY), 0, 0, 0) is None
    assert finish(mean(VALUE, DAY), 0, 0) is None
    assert finish(mean(VALUE, DAY), 2, 700) == 3.5


def test_a_share_of_nothing_is_missing():
    assert finish(share(ORDERS, ORDERS, DAY), 0, 0) is None
    assert finish(share(ORDERS, ORDERS, DAY), 3, 1) == 0.75


def test_a_total_is_zero_without_orders_and_missing_without_values():
    spent = total(VALUE, among=ORDERS, window=DAY)
    assert finish(spent, 0, 0, 0) == 0.0
    assert finish(spent, 0, 0, 2) is None
    assert finish(spent, 700, 1, 2) == 7.0


def test_a_maximum_cannot_have_a_window():
    from feature_repo.transforms.spec import Partial, Running

    with pytest.raises(ValueError, match="only LIFETIME can have one"):
        Running(Partial(VALUE, "last"), DAY)
