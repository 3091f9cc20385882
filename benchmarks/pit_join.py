"""A point-in-time join of two feature views: ours, Feast's own stores, and bare as-of joins of the same files.

Each view has 8 features (half of them with a tenth of nulls) of 20,000 or 100,000 entities over 120 days, in one file
a day as the lake keeps them, ordered by event time; a row was created 10 minutes after its event. The entity rows fall
on random instants, one in fifty of an entity that has no rows. Feast's stores are asked with
`filter_by_created_timestamp`, so that all of them answer the same question as ours; the bare joins know neither created
times nor a time to live. "values unlike ours" counts the feature values in which an answer differs.

make bench NAME=pit_join                  # Feast's DuckDB store needs 20 GB at the largest size
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import compare

if TYPE_CHECKING:
    import pandas as pd
    from feast import FeatureStore

START, DAYS = datetime(2026, 1, 1, tzinfo=UTC), 120
VIEWS = {"restaurant": 20_000, "customer": 100_000}
FEATURES = [f"mean_{number}" for number in range(4)] + [f"sparse_{number}" for number in range(4)]
TTL = timedelta(days=7)
OURS = {
    "type": "feature_repo.stores.asof.AsOfOfflineStore",
    "day_partitions": True,
    "knowledge_cutoff": True,
}
LAKE = Path(tempfile.gettempdir()) / "delivery-eta-benchmark-pit-join"
PUBLISHED_AFTER = timedelta(minutes=10)
SIZES = [
    (100_000, 1_000_000, TTL),
    (100_000, 5_000_000, TTL),
    (1_000_000, 1_000_000, TTL),
    (1_000_000, 5_000_000, TTL),
    (1_000_000, 5_000_000, None),
]


def ours(store: FeatureStore, entities: pd.DataFrame, **_: Any) -> pd.DataFrame:
    """Our store, with the knowledge cut-off and the time to live."""
    return store.get_historical_features(entities, _references(), full_feature_names=True).to_df()


def feast(store: FeatureStore, entities: pd.DataFrame, **_: Any) -> pd.DataFrame:
    """One of Feast's stores, with its own knowledge cut-off and the time to live."""
    job = store.get_historical_features(
        entities, _references(), full_feature_names=True, filter_by_created_timestamp=True
    )
    return job.to_df()


def bare_polars(lake: Path, entities: pd.DataFrame, **_: Any) -> pd.DataFrame:
    """`join_asof` of Polars on sorted frames."""
    import polars as pl

    left = pl.from_pandas(entities).with_columns(pl.col("event_timestamp").cast(pl.Datetime("us", "UTC")))
    for view in VIEWS:
        right = pl.scan_parquet(f"{lake}/{view}/*/*.parquet", hive_partitioning=False)
        right = right.select(f"{view}_id", "event", *[pl.col(name).alias(f"{view}__{name}") for name in FEATURES])
        left = (
            left.lazy()
            .sort("event_timestamp")
            .join_asof(right.sort("event"), left_on="event_timestamp", right_on="event", by=f"{view}_id")
            .drop("event")
            .collect()
        )
    return left.sort("row").to_pandas()


def bare_duckdb(lake: Path, entities: pd.DataFrame, **_: Any) -> pd.DataFrame:
    """`ASOF JOIN` of DuckDB."""
    import duckdb

    joins = " ".join(
        f"ASOF LEFT JOIN (SELECT {view}_id AS {view}_key, event AS {view}_event, "
        + ", ".join(f"{name} AS {view}__{name}" for name in FEATURES)
        + f" FROM '{lake}/{view}/*/*.parquet') AS {view} "
        f"ON e.{view}_id = {view}_key AND e.event_timestamp >= {view}_event"
        for view in VIEWS
    )
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("frame", entities)
        names = ", ".join(f"{view}__{name}" for view in VIEWS for name in FEATURES)
        return connection.execute(f"SELECT e.*, {names} FROM frame AS e {joins} ORDER BY row").df()


def pandas(lake: Path, entities: pd.DataFrame, **_: Any) -> pd.DataFrame:
    """`merge_asof` of pandas."""
    import pandas as pd
    import pyarrow.dataset as ds

    left = entities.sort_values("event_timestamp")
    for view in VIEWS:
        files = sorted(str(path) for path in Path(lake, view).glob("*/*.parquet"))
        columns = [f"{view}_id", "event", *FEATURES]
        right = ds.dataset(files, format="parquet", partitioning=None).to_table(columns=columns).to_pandas()
        right = right.rename(columns={name: f"{view}__{name}" for name in FEATURES}).sort_values("event")
        left = pd.merge_asof(left, right, left_on="event_timestamp", right_on="event", by=f"{view}_id")
        left = left.drop(columns="event")
    return left.sort_values("row", ignore_index=True)


class Contender:
    """One way to answer, with what it needs made beforehand.

    Parameters
    ----------
    answer : callable
        Takes the prepared arguments and returns the joined frame.
    store : mapping, optional
        Offline-store options of the Feast store that it asks.
    """

    def __init__(self, answer: Any, store: Mapping[str, Any] | None = None) -> None:
        self.answer, self.store, self.found = answer, store, None

    def prepare(self, rows: int, history: int, ttl: timedelta | None) -> dict[str, Any]:
        """The entity frame and, where needed, the store: outside of what is measured."""
        found: dict[str, Any] = {"entities": _entities(rows)}
        if self.store is not None:
            found["store"] = _store(LAKE / str(history), self.store, ttl)
        return found

    def __call__(self, rows: int, history: int, ttl: timedelta | None, **prepared: Any) -> Mapping[str, Any]:
        """Join; the number of rows is told."""
        self.found = self.answer(lake=LAKE / str(history), **prepared)
        return {"rows out": len(self.found)}  # type: ignore[arg-type]

    def finish(self, rows: int, history: int, ttl: timedelta | None, **_: Any) -> dict[str, Any]:
        """The number of values that differ from ours, which runs first and leaves its answer on the disk."""
        import polars as pl

        names = [f"{view}__{name}" for view in VIEWS for name in FEATURES]
        answer = pl.from_pandas(self.found[["row", *names]], nan_to_null=True).sort("row")  # type: ignore[index]
        kept = LAKE / f"ours-{rows}-{history}-{ttl}.parquet"
        if self.answer is ours:
            answer.write_parquet(kept)
            return {}
        both = pl.read_parquet(kept).join(answer, on="row", how="left", suffix=" theirs")
        differ = both.select(pl.col(name).ne_missing(pl.col(f"{name} theirs")).sum() for name in names)
        return {"values unlike ours": int(differ.sum_horizontal().item())}


def _references() -> list[str]:
    return [f"{view}:{name}" for view in VIEWS for name in FEATURES]


def _entities(rows: int) -> pd.DataFrame:
    """`row`, both keys, and an instant each in the last 90 days, in no order of time."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(rows)
    seconds = random.integers(30 * 86_400, DAYS * 86_400, rows)
    frame = {"row": np.arange(rows)}
    frame |= {f"{view}_id": _ids(view, random.integers(0, int(count * 1.02), rows)) for view, count in VIEWS.items()}
    begun = np.datetime64(START.replace(tzinfo=None), "us")
    instants = pd.Series(begun + seconds.astype("timedelta64[s]")).dt.tz_localize("UTC")
    return pd.DataFrame(frame).assign(event_timestamp=instants)


def _ids(view: str, numbers: Any) -> Any:
    import numpy as np

    return np.char.add(view[0], numbers.astype("U7")).astype(object)


def write_lake(root: Path, rows: int) -> None:
    """`rows` rows of each view below `root`, one file a day."""
    import numpy as np
    import polars as pl

    for view, count in VIEWS.items():
        random = np.random.default_rng([rows, count])
        for day, size in enumerate(np.bincount(np.arange(rows) % DAYS, minlength=DAYS)):
            begun = START + timedelta(days=day)
            frame = pl.DataFrame(
                {
                    f"{view}_id": _ids(view, random.integers(0, count, size)).tolist(),
                    # On distinct instants of a key, so that no store can choose among equals.
                    "event": random.permutation(86_400 * 1000)[:size] * 1000
                    if size > 86_400
                    else random.choice(86_400, size, replace=False) * 1_000_000,
                    **{name: random.normal(30, 9, size) for name in FEATURES},
                }
            )
            event = pl.lit(begun).cast(pl.Datetime("us", "UTC")) + pl.duration(microseconds=pl.col("event"))
            sparse = [
                pl.when(pl.Series(random.random(size) > 0.1)).then(pl.col(name)).alias(name) for name in FEATURES[4:]
            ]
            frame = frame.with_columns(event.alias("event"), *sparse).sort("event")
            target = root / view / f"day={begun:%Y-%m-%d}"
            target.mkdir(parents=True)
            frame.with_columns(created=pl.col("event") + PUBLISHED_AFTER).write_parquet(target / "part.parquet")


def _store(lake: Path, offline_store: Mapping[str, Any], ttl: timedelta | None) -> FeatureStore:
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.types import Float64

    directory = tempfile.mkdtemp()
    store = FeatureStore(
        config=RepoConfig(
            project="benchmark",
            provider="local",
            registry={"registry_type": "sql", "path": f"sqlite:///{directory}/registry.db"},
            online_store=None,
            entity_key_serialization_version=3,
            offline_store=dict(offline_store),
        )
    )
    is_ours = "asof" in offline_store["type"]
    for view in VIEWS:
        entity = Entity(name=view, join_keys=[f"{view}_id"], value_type=ValueType.STRING)
        source = FileSource(
            name=f"{view}_rows",
            path=f"{lake}/{view}" if is_ours else f"{lake}/{view}/*/*.parquet",
            timestamp_field="event",
            created_timestamp_column="created",
        )
        fields = [Field(name=name, dtype=Float64) for name in FEATURES]
        store.apply([entity, FeatureView(name=view, entities=[entity], ttl=ttl, schema=fields, source=source)])
    return store


CONTENDERS = {
    "ours": Contender(ours, OURS),
    "Feast duckdb": Contender(feast, {"type": "duckdb"}),
    "Feast dask": Contender(feast, {"type": "dask"}),
    "bare Polars": Contender(bare_polars),
    "bare DuckDB": Contender(bare_duckdb),
    "pandas": Contender(pandas),
}


def main(arguments: list[str]) -> None:
    """Measure at all sizes, or at those that are named in the arguments."""
    sizes = {_name(*size): size for size in SIZES if not arguments or _name(*size) in arguments}
    shutil.rmtree(LAKE, ignore_errors=True)
    try:
        for history in sorted({history for _, history, _ in sizes.values()}):
            print(f"  writing {history:,} rows of each view", flush=True)
            write_lake(LAKE / str(history), history)
        compare(
            "pit_join",
            CONTENDERS,
            {name: dict(zip(("rows", "history", "ttl"), size, strict=True)) for name, size in sizes.items()},
            anchor="Feast duckdb",
            packages=["feast", "duckdb", "polars", "pandas", "dask"],
            runs=1,
            # Minutes at the smallest size, and it loses rows: more of it would show nothing new.
            leave_out=[("Feast dask", name) for name, size in sizes.items() if size != SIZES[0]],
        )
    finally:
        shutil.rmtree(LAKE, ignore_errors=True)


def _name(rows: int, history: int, ttl: timedelta | None) -> str:
    return f"{rows // 1000:,} k x {history // 1_000_000} M, {f'TTL {ttl.days} d' if ttl else 'no TTL'}"


if __name__ == "__main__":
    main(sys.argv[1:])
