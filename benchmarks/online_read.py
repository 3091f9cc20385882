"""Reading the newest features of some orders from Redis: ours, Feast's own client, and the bare commands.

make bench NAME=online_read
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from benchmarks import _serving
from benchmarks.harness import Contender, compare

if TYPE_CHECKING:
    from serving.online import OnlineReader

WARM_UP = 50


def read(read: Callable[[], Any], repeats: int, **_: Any) -> Mapping[str, Any]:
    """Read again and again; what a read takes is told by percentiles."""
    seconds = []
    for _repeat in range(repeats):
        begun = time.perf_counter()
        read()
        seconds.append(time.perf_counter() - begun)
    return {"reads": repeats, **_serving.percentiles(seconds)}


def ours(rows: int, repeats: int) -> Callable[[], Any]:
    """The reader of `serving/`: values, statuses and event times of all rows, which it has decoded before."""
    reader, keys, now = open_reader(), entity_rows(rows), datetime.now(UTC)
    assert (reader.read(keys, now).statuses == 0).all()
    return lambda: reader.read(keys, now)


def unseen(rows: int, repeats: int) -> Callable[[], Any]:
    """The same of other orders each time, and nothing of what was decoded is kept."""
    from serving.online import _decoded, _short_number

    reader, now = open_reader(), datetime.now(UTC)
    orders = entity_rows(rows * (repeats + WARM_UP))
    starts = iter(range(0, len(orders), rows))

    def read() -> Any:
        start = next(starts)
        _decoded.cache_clear()
        _short_number.cache_clear()
        return reader.read(orders[start : start + rows], now)

    return read


def open_reader() -> OnlineReader:
    """On the Redis of the run."""
    from serving.online import OnlineReader, OnlineView

    views = [OnlineView(view, (key,), tuple(_serving.FEATURES), _serving.TTL) for view, key in _serving.VIEWS.items()]
    return OnlineReader(os.environ[_serving.URL_VARIABLE], _serving.PROJECT, views, timeout=2)


def feast(rows: int, repeats: int) -> Callable[[], Any]:
    """`get_online_features` of a stock store: its response as it is, not made into a dictionary."""
    store = _serving.feast_store()
    keys = entity_rows(rows)
    return lambda: store.get_online_features(_serving.REFERENCES, keys, full_feature_names=True)


def raw(rows: int, repeats: int) -> Callable[[], Any]:
    """The bare HMGET of each distinct key through redis-py's pipeline; the replies are not decoded."""
    import redis

    from serving.feast_bytes import field_name, key_prefix, key_value

    client = redis.Redis.from_url(os.environ[_serving.URL_VARIABLE])
    fields = {
        view: [*(field_name(view, feature) for feature in _serving.FEATURES), f"_ts:{view}".encode()]
        for view in _serving.VIEWS
    }
    commands = list(
        dict.fromkeys(
            (view, key_prefix([key]) + key_value(row[key]) + _serving.PROJECT.encode())
            for row in entity_rows(rows)
            for view, key in _serving.VIEWS.items()
        )
    )

    def read() -> Any:
        with client.pipeline(transaction=False) as pipe:
            for view, key in commands:
                pipe.hmget(key, fields[view])  # type: ignore[arg-type]
            return pipe.execute()

    assert all(None not in reply for reply in read())
    return read


def entity_rows(rows: int) -> list[dict[str, str]]:
    """The keys of as many orders."""
    return [{key: order[key] for key in _serving.VIEWS.values()} for order in _serving.orders(rows)]


def contender(make: Callable[[int, int], Callable[[], Any]]) -> Contender:
    """`read` by what `make` returns, after a warm-up."""
    return _Contender(make)


class _Contender:
    def __init__(self, make: Callable[[int, int], Callable[[], Any]]) -> None:
        self.make = make
        self.__name__ = make.__name__

    def __call__(self, **arguments: Any) -> Mapping[str, Any]:
        return read(**arguments)

    def prepare(self, rows: int, repeats: int) -> Mapping[str, Any]:
        one_read = self.make(rows, repeats)
        for _ in range(min(WARM_UP, repeats)):
            one_read()
        return {"read": one_read}


if __name__ == "__main__":
    _serving.fill_redis()
    compare(
        "online_read",
        {
            "raw pipeline": contender(raw),
            "ours": contender(ours),
            "ours, rows unseen": contender(unseen),
            "Feast SDK": contender(feast),
        },
        {
            "1 row": {"rows": 1, "repeats": 4_000},
            "10 rows": {"rows": 10, "repeats": 1_000},
            "100 rows": {"rows": 100, "repeats": 200},
            "1,000 rows": {"rows": 1_000, "repeats": 30},
        },
        anchor="raw pipeline",
        packages=["feast", "redis", "hiredis", "numpy"],
        runs=3,
        ratios_of=["p50_ms"],
    )
