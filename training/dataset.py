"""The training set: one row per prediction that could have been made, with what was known at that instant.

Features come from Feast's historical retrieval and from nowhere else. A data set is stored once per content, under its
hash, and found again when nothing that it depends on has changed.
"""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from feature_repo import market
from feature_repo.window import Window, as_utc, floor_hour
from training.errors import DatasetError, EmptyPopulation, RowsChanged, SourceLacks
from training.files import canonical_hash, file_hash, new_directory, read_json, write_json
from training.lineage import code_hash, features_code_hash
from training.spec import ModelSpec

if TYPE_CHECKING:
    from config import Settings

LOGGER = logging.getLogger(__name__)

ROWS = "rows.parquet"
DESCRIPTION = "dataset.json"
LABEL_KNOWN_AT = "label_known_at"
FILES_READ = ("order_partitions", "feature_tables")
"""Parts of a description that hold hashes of files."""

IDENTITY = ("model", "as_of", "window", "feature_service", "definitions_hash", "clock", "seed", "rows_hash")
"""What a data set's hash covers. Of two clocks that agree on all its rows (London's and UTC in winter) serving has to
know which one is meant, so rows alone do not say it."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """A stored training set.

    Parameters
    ----------
    directory : Path
        Holds `rows.parquet` and `dataset.json`.
    description : dict
        The content of `dataset.json`.
    """

    directory: Path
    description: dict[str, Any]

    @property
    def hash(self) -> str:
        return str(self.description["hash"])

    @property
    def inputs(self) -> list[str]:
        """Names of the model's inputs, in order."""
        return [str(item["name"]) for item in self.description["inputs"]]

    def view_inputs(self, view: str) -> list[str]:
        """Names of the inputs that come from one feature view."""
        return [str(item["name"]) for item in self.description["inputs"] if item["view"] == view]

    def rows(self) -> pl.DataFrame:
        """The rows, ordered by the row id.

        Raises
        ------
        DatasetError
            The file is damaged or is not the one that was described.
        """
        path = self.directory / ROWS
        try:
            rows = pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            raise DatasetError(
                f"{path} cannot be read ({error}): remove {self.directory} and build it again"
            ) from error
        if rows.height != self.description["row_count"]:
            raise DatasetError(
                f"{path} has {rows.height} rows, {DESCRIPTION} says {self.description['row_count']}: "
                f"remove {self.directory} and build it again"
            )
        return rows


def window_of(as_of: datetime, spec: ModelSpec) -> Window:
    """The window of prediction instants of a training run: whole hours, ending at or just before `as_of`."""
    return Window.last(timedelta(days=spec.window_days), floor_hour(as_of))


def build_dataset(as_of: datetime, settings: Settings, spec: ModelSpec) -> tuple[Dataset, bool]:
    """Build and store the training set of a model as it could be known at `as_of`.

    Returns
    -------
    (Dataset, bool)
        The bool says that it was there already, and nothing that it depends on has changed.

    Raises
    ------
    EmptyPopulation
        No row has a label that is known at `as_of`.
    RowsChanged
        The feature store did not give back the rows that it was asked for.
    """
    as_of = as_utc(as_of)
    note = settings.datasets / "inputs" / f"{_inputs_key(as_of, settings, spec)}.json"
    if (found := _found_again(note, as_of, settings, spec)) is not None:
        LOGGER.info("data set %s: nothing that it depends on has changed, reused", found.hash[:12])
        return found, True
    sources = _describe_sources(as_of, settings, spec)
    population = spec.population(window_of(as_of, spec), as_of, settings).collect()
    if not population.height:
        raise EmptyPopulation(
            f"{spec.name}: no row in {window_of(as_of, spec)} has a label that is known at {as_of.isoformat()}: "
            "bring in orders of this window (make ingest), or move --as-of"
        )
    rows = with_features(_entity_frame(population, sources, spec), settings, spec)
    description = sources | _absence(population, settings, spec)
    dataset = store_dataset(rows, description, settings.datasets, spec)
    write_json(note, {"hash": dataset.hash, **{name: sources[name] for name in FILES_READ}})
    LOGGER.info("data set %s: %d rows stored in %s", dataset.hash[:12], rows.height, dataset.directory)
    return dataset, False


def require_source(settings: Settings, spec: ModelSpec) -> None:
    """Refuse a model that the source of the orders cannot have.

    Raises
    ------
    SourceLacks
    """
    from feature_repo.orders.columns import absent_columns

    if missing := sorted(set(spec.requires).intersection(absent_columns(settings))):
        raise SourceLacks(
            f"there is no model {spec.name} for this source: it needs {', '.join(missing)}, which the orders lack"
        )


def with_features(entities: pl.DataFrame, settings: Settings, spec: ModelSpec) -> pl.DataFrame:
    """Add the features of the spec's service to entity rows (with `event_timestamp`), through Feast.

    Raises
    ------
    RowsChanged
        Rows came back missing, added or in another order.
    """
    from feature_repo.store import feature_store

    store = feature_store(settings)
    service = store.get_feature_service(spec.feature_service)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="On demand feature view is an experimental feature")
        job = store.get_historical_features(entities.to_pandas(), service, full_feature_names=True)
        answer = job.to_df()
    if answer[spec.row_id].tolist() != entities[spec.row_id].to_list():
        raise RowsChanged(
            f"{spec.feature_service}: {entities.height} rows went into the historical retrieval, {len(answer)} came "
            "back or their order changed: the offline store must return each row once, in order"
        )
    features = pl.from_pandas(answer, nan_to_null=True)
    new = [name for name in features.columns if name not in entities.columns]
    return entities.hstack(features.select(new))


def store_dataset(rows: pl.DataFrame, description: Mapping[str, Any], root: Path, spec: ModelSpec) -> Dataset:
    """Store rows and their description under their hash, in one rename; the same content is stored once.

    Parameters
    ----------
    rows : pl.DataFrame
        Row id, instant, label, `label_known_at`, and every input of `description["inputs"]`; other columns are kept.
    description : mapping
        Where the rows come from: see `_describe_sources`.
    root : Path
        The directory of all data sets.
    spec : ModelSpec

    Raises
    ------
    DatasetError
        A column is missing.
    """
    inputs = [str(item["name"]) for item in description["inputs"]]
    missing = [name for name in (spec.row_id, spec.instant, spec.label, LABEL_KNOWN_AT, *inputs) if name not in rows]
    if missing:
        raise DatasetError(f"{spec.name}: the training rows have no columns {missing}; they have {rows.columns}")
    content = rows.sort(spec.row_id)
    full = dict(description) | {"rows_hash": rows_hash(content)} | _statistics(content, inputs, spec)
    full["hash"] = canonical_hash({name: full[name] for name in IDENTITY})
    directory = root / full["hash"]
    if not (directory / DESCRIPTION).exists():
        with new_directory(directory) as temporary:
            content.write_parquet(temporary / ROWS, compression="zstd", statistics=True)
            write_json(temporary / DESCRIPTION, full)
    return load_dataset(directory)


def load_dataset(directory: Path) -> Dataset:
    """The data set in a directory.

    Raises
    ------
    DatasetError
        There is none.
    """
    path = directory / DESCRIPTION
    if not path.exists():
        raise DatasetError(f"no data set in {directory}: build it with `python -m training run --as-of ...`")
    return Dataset(directory, read_json(path))


def rows_hash(rows: pl.DataFrame) -> str:
    """SHA-256 of the rows in their order: column names, types and values."""
    digest = hashlib.sha256(repr(list(rows.schema.items())).encode())
    for column in rows.iter_columns():
        digest.update(column.rechunk().to_frame().write_ipc(None, compat_level=pl.CompatLevel.oldest()).getvalue())
    return digest.hexdigest()


def _inputs_key(as_of: datetime, settings: Settings, spec: ModelSpec) -> str:
    """Hash of all that decides a data set, but for the files that are read."""
    return canonical_hash(
        {
            "as_of": as_of.isoformat(),
            "spec": spec.fingerprint(),
            "parts": [part.by for part in (*spec.slices, *spec.fairness)],
            "code": [code_hash(), features_code_hash()],
            "hours": settings.lateness_horizon_hours,
            "minutes": [settings.publication_delay_minutes, settings.live_publication_delay_minutes],
            "clock": market.clock(settings),
        }
    )


def _found_again(note: Path, as_of: datetime, settings: Settings, spec: ModelSpec) -> Dataset | None:
    """The data set that was once made of these inputs, if the files that it was made from are as they were.

    Feast is not imported for it: which views were read, and how far back, is in the description.
    """
    if not note.exists():
        return None
    noted = read_json(note)
    directory = settings.datasets / noted["hash"]
    if not (directory / DESCRIPTION).exists():
        return None
    dataset = load_dataset(directory)
    reach = {str(view["name"]): int(view["ttl_seconds"]) for view in dataset.description["views"]}
    now = _files_read(reach, as_of, settings, spec)
    return dataset if all(noted.get(name) == now[name] for name in FILES_READ) else None


def _describe_sources(as_of: datetime, settings: Settings, spec: ModelSpec) -> dict[str, Any]:
    from feature_repo import catalog
    from feature_repo.transforms.request_time import REQUEST_FUNCTION_VERSION

    zone, peak_hours = market.clock(settings)

    window = window_of(as_of, spec)
    # Words stay in the rows, for slices, and are no inputs: an estimator takes numbers.
    inputs = [asdict(item) for item in catalog.model_inputs(spec.feature_service) if item.dtype != "String"]
    used = [view for view in catalog.batch_views() if any(item["view"] == view.name for item in inputs)]
    views = [_describe_view(view, inputs) for view in used]
    return {
        "model": spec.name,
        "as_of": as_of.isoformat(),
        "window": {"start": window.start.isoformat(), "end": window.end.isoformat()},
        "feature_service": spec.feature_service,
        "definitions_hash": catalog.definitions_hash(),
        "request_function_version": REQUEST_FUNCTION_VERSION,
        "clock": {"zone": zone, "peak_hours": list(peak_hours)},
        "seed": spec.seed,
        "inputs": inputs,
        "views": views,
        **_files_read({view["name"]: view["ttl_seconds"] for view in views}, as_of, settings, spec),
    }


def _files_read(reach: Mapping[str, int], as_of: datetime, settings: Settings, spec: ModelSpec) -> dict[str, Any]:
    """Hashes of the files that a data set is made from; `reach` is the time to live of each view, in seconds."""
    window = window_of(as_of, spec)
    start = window.start - timedelta(seconds=max(reach.values(), default=0))
    return {
        # Where labels take long to be decided, a population looks as far back from its first instant.
        "order_partitions": _order_partitions(Window(window.start - spec.label_horizon, window.end), as_of, settings),
        "feature_tables": {view: _table_hash(settings.features / view, start, as_of) for view in reach},
    }


def _describe_view(view: Any, inputs: list[dict[str, Any]]) -> dict[str, Any]:
    features = [item["feature"] for item in inputs if item["view"] == view.name]
    ttl = int(view.ttl.total_seconds())
    return {"name": view.name, "join_key": view.join_key, "ttl_seconds": ttl, "features": features}


def _order_partitions(window: Window, as_of: datetime, settings: Settings) -> list[dict[str, str]]:
    from feature_repo.orders.schema import orders_table

    table = orders_table(settings)
    files = table.files(Window(window.start, floor_hour(as_of) + timedelta(hours=1)))
    return [
        {
            "path": path.relative_to(settings.data_dir).as_posix(),
            "sha256": _hash_until(path, table.time_column, as_of),
        }
        for path in files
    ]


def _table_hash(root: Path, start: datetime, as_of: datetime) -> str:
    first, last = f"day={start:%Y-%m-%d}", f"day={as_of:%Y-%m-%d}"
    files = [path for path in sorted(root.glob("day=*/*.parquet")) if first <= path.parent.name <= last]
    hashes = [_hash_until(path, "event_timestamp", as_of) for path in files]
    return canonical_hash(
        [[path.relative_to(root).as_posix(), found] for path, found in zip(files, hashes, strict=True)]
    )


def _hash_until(path: Path, time_column: str, as_of: datetime) -> str:
    """Of a whole day, the file's hash; of the day of `as_of`, which still grows, that of the rows until then."""
    if path.parent.name != f"day={as_of:%Y-%m-%d}":
        return file_hash(path)
    return rows_hash(pl.read_parquet(path, hive_partitioning=False).filter(pl.col(time_column) <= as_of))


def _entity_frame(population: pl.DataFrame, sources: Mapping[str, Any], spec: ModelSpec) -> pl.DataFrame:
    keys = [str(view["join_key"]) for view in sources["views"]]
    request = [str(item["name"]) for item in sources["inputs"] if item["source"] == "request"]
    parts = [part.by for part in (*spec.slices, *spec.fairness) if part.by in population.columns]
    told = [spec.promise] if spec.promise else []
    columns = dict.fromkeys([spec.row_id, spec.instant, *keys, *request, *parts, *told, spec.label, LABEL_KNOWN_AT])
    return population.select(list(columns)).sort(spec.row_id).with_columns(event_timestamp=pl.col(spec.instant))


def _absence(population: pl.DataFrame, settings: Settings, spec: ModelSpec) -> dict[str, list[str]]:
    """What the source lacks (a column, or every value of one in this window), and which inputs have no value then."""
    from feature_repo.absence import input_losses
    from feature_repo.orders.columns import absent_columns

    empty = [name for name in population.columns if population[name].null_count() == population.height]
    absent = sorted({*empty, *absent_columns(settings)})
    return {"absent_columns": absent, "absent_inputs": list(input_losses(spec.feature_service, absent).without_value)}


def _statistics(rows: pl.DataFrame, inputs: list[str], spec: ModelSpec) -> dict[str, Any]:
    def text(instant: object) -> str | None:
        return instant.isoformat() if isinstance(instant, datetime) else None

    return {
        "row_id": spec.row_id,
        "instant": spec.instant,
        "label": spec.label,
        "row_count": rows.height,
        "null_rates": {name: rows[name].null_count() / rows.height if rows.height else 0.0 for name in inputs},
        "earliest": text(rows[spec.instant].min()),
        "latest": text(rows[spec.instant].max()),
    }
