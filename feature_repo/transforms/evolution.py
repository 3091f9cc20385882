"""Taking a view's tables from one definition to another, beside the old ones, which stay until the new ones are whole.

    `rebuild`           a view whose definition changed, from the orders, all of it
    `backfill_features` a view with new features: only those are computed, the other columns are carried over
    `settle`            what a run does first: end a replacement that was killed, drop columns that nobody defines

New tables are made in `_evolving/<view>` and change places with the old ones, which then are in `_superseded`, until
somebody deletes them. Whoever calls holds the locks; no other process reads or writes tables in the meantime.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from config import Settings
from feature_repo.files import write_atomically
from feature_repo.lake import PartitionedTable
from feature_repo.transforms import compute, versions, windows
from feature_repo.transforms.coverage import HistoryMissing, chunks, covered_hours
from feature_repo.transforms.engine import engine, evaluate, hand_over
from feature_repo.transforms.replaced import note_replaced
from feature_repo.transforms.spec import NOW, Feature, Partial, Running, ViewTransform
from feature_repo.transforms.tables import CREATED, EVENT_TIME, TILE_START, feature_table, row_window, tile_table
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import Window

logger = logging.getLogger(__name__)

Check = Callable[[str, pl.DataFrame, Window, Settings], None]
"""Judges the rows of one chunk before they count; raises if they are refused."""
Progress = Callable[[str], None]

READY = "_ready.json"
"""Says that the tables beside are whole: from then on they will become the view's, even if this process dies."""
_RENAME_EXCHANGE, _AT_FDCWD = 2, -100


@dataclass(frozen=True)
class _Columns(ViewTransform):
    """Some features of a view, at the instants and from the tiles of the whole view."""

    whole: ViewTransform | None = None

    def __hash__(self) -> int:
        return hash((super().__hash__(), self.whole))

    @property
    def windows(self) -> list[Any]:
        return self.whole.windows if self.whole else []

    @property
    def partials(self) -> list[Partial]:
        return self.whole.partials if self.whole else []


def settle(settings: Settings) -> None:
    """Make the tables those of the code's definitions as far as that needs no computation.

    Raises
    ------
    DefinitionChanged
        It does need one. Nothing has been changed then, except that a replacement was ended.
    """
    for view in TRANSFORMS:
        _end_replacement(view, settings)
    versions.require_current(settings)
    for view, transform in TRANSFORMS.items():
        record = None if versions.is_fresh(transform, settings) else versions.read_record(view, settings)
        if record is None or not (gone := versions.differences(transform, record).removed):
            continue
        logger.warning("%s no longer defines %s: its tables are written without", view, ", ".join(gone))
        kept = {name: found for name, found in record.features.items() if name not in gone}
        _make_columns(transform, [], covered_hours(settings).start, settings, _accept, _silent)
        _replace(versions.Record(view, _next_build(view, settings), record.rows, kept), settings)
        _keep_state(transform, settings)


def rebuild(view: str, settings: Settings, check: Check, progress: Progress) -> dict[str, Any]:
    """Compute a view's tables from the orders for all hours that are covered, and put them in place of the old ones.

    Returns
    -------
    dict
        `view`, `tiles` and `rows` (their numbers), and `kept`: where the old tables are.

    Raises
    ------
    HistoryMissing
        Nothing has been computed yet.
    KeyError
        There is no such view.
    """
    transform = _transform(view)
    _end_replacement(view, settings)
    covered, beside = covered_hours(settings), _begin(view, settings)
    counts = {"tiles": 0, "rows": 0}
    for chunk in chunks(covered):
        tiles = compute.compute_tiles(chunk, settings, {view: transform})
        rows = compute.compute_rows(chunk, tiles, beside, {view: transform})[view]
        check(view, rows, chunk, beside)
        counts["tiles"] += tile_table(transform, beside).replace(chunk, tiles[view])
        counts["rows"] += feature_table(transform, beside).replace(row_window(chunk, transform), rows)
        compute.keep_states(chunk, beside, {view: transform})
        progress(f"{view}, {chunk}: {rows.height} feature rows computed")
    build = _next_build(view, settings)
    kept = _replace(versions.new_record(transform, covered.start, since=covered.end, build=build), settings)
    _keep_state(transform, settings)
    return {"view": view, **counts, "kept": str(kept)}


def backfill_features(
    view: str, names: Sequence[str], start: datetime | None, settings: Settings, check: Check, progress: Progress
) -> dict[str, Any]:
    """Give a view's tables its new features, from the hour that begins at `start` to the last that is covered.

    Parameters
    ----------
    view : str
    names : sequence of str
        All features that are new in the view, or some that begin later than `start` so far.
    start : datetime or None
        A full hour; None for the first that is covered.
    settings : Settings
    check, progress

    Returns
    -------
    dict
        `view`, `features` (those computed; none if all were there), `rows`, and `kept`: where the old tables are.

    Raises
    ------
    DefinitionChanged
        More than these features is new.
    HistoryMissing
        `start` is outside of the covered hours.
    KeyError
        There is no such view or feature.
    """
    transform = _transform(view)
    if unknown := sorted(set(names) - set(transform.features)):
        raise KeyError(f"{view} has no features {unknown}, but {list(transform.features)}")
    _end_replacement(view, settings)
    covered = covered_hours(settings)
    start = start or covered.start
    if not covered.start <= start < covered.end:
        raise HistoryMissing(f"{start.isoformat()} is not within the computed hours {covered}: backfill those first")
    record = versions.read_record(view, settings)
    if record is None:
        versions.require_current(settings)
        return {"view": view, "features": [], "rows": 0}
    found = versions.differences(transform, record)
    found = replace(found, added=tuple(name for name in found.added if name not in names))
    if problems := found.problems():
        raise versions.DefinitionChanged("; ".join(problems))
    first = start + transform.step
    wanted = [name for name in transform.features if name in names and _begins_later(record, name, first)]
    if not wanted:
        return {"view": view, "features": [], "rows": 0}
    rows = _make_columns(transform, wanted, start, settings, check, progress)
    made = versions.new_record(transform, start, since=covered.end, build=_next_build(view, settings))
    features = {name: made.features[name] if name in wanted else record.features[name] for name in transform.features}
    kept = _replace(replace(made, features=features), settings)
    _keep_state(transform, settings)
    return {"view": view, "features": wanted, "rows": rows, "kept": str(kept)}


def _begins_later(record: versions.Record, name: str, first: datetime) -> bool:
    return name not in record.features or record.features[name].available_from > first


def _make_columns(
    transform: ViewTransform, new: Sequence[str], start: datetime, settings: Settings, check: Check, progress: Progress
) -> int:
    """Write tables beside the view's that have the features `new` too, from `start` on; returns the number of rows."""
    beside = _begin(transform.view, settings)
    old = _with_features(transform, [name for name in transform.features if name not in new])
    _make_tiles(transform, old, settings, beside)
    table, count = feature_table(transform, beside), 0
    for chunk, rows in _merged_rows(transform, old, start, settings, beside):
        check(transform.view, rows, chunk, beside)
        count += table.replace(row_window(chunk, transform), rows)
        progress(f"{transform.view}, {chunk}: {rows.height} feature rows written")
    return count


def _make_tiles(transform: ViewTransform, old: ViewTransform, settings: Settings, beside: Settings) -> None:
    """The view's tiles: the columns of `old` from its table, the others from the orders."""
    stored, target = _stored(tile_table(transform, settings)), tile_table(transform, beside)
    missing = [partial for partial in transform.partials if partial not in old.partials]
    if not missing and dict(stored.schema) == dict(target.schema):
        # Files are replaced, never written to, so two tables can share them.
        shutil.copytree(stored.root, target.root, copy_function=os.link, ignore=_not_rows, dirs_exist_ok=True)
        return
    whole_tile = [transform.key, TILE_START]
    kept = [partial.column for partial in old.partials]
    only = replace(old, features={p.column: Feature("int64", (Running(p, None),), lambda n: n) for p in missing})
    for chunk in chunks(covered_hours(settings)):
        tiles = stored.read(chunk).select(*whole_tile, *kept)
        if missing:
            added = compute.compute_tiles(chunk, settings, {only.view: only})[only.view]
            tiles = tiles.join(added, on=whole_tile, how="full", coalesce=True)
        nothing = [pl.col(p.column).fill_null(0) for p in transform.partials if p.kind != "last"]
        target.replace(chunk, tiles.with_columns(nothing))


def _merged_rows(
    transform: ViewTransform, old: ViewTransform, start: datetime, settings: Settings, beside: Settings
) -> Iterator[tuple[Window, pl.DataFrame]]:
    """Chunk by chunk, the view's rows: old values where there were rows, and the new features from `start` on.

    A new window or fact brings instants at which there was no row. No tile of the old features entered or left one of
    their windows then, so they still have their values of the row before; except those that use the row's instant,
    which are computed there. A key without a row before has the values of an entity without tiles.
    """
    stored, covered = _stored(feature_table(transform, settings)), covered_hours(settings)
    schema, kept = feature_table(transform, beside).schema, list(old.features)
    timed = [name for name in kept if NOW in old.features[name].uses]
    new = [name for name in transform.features if name not in kept]
    columns = _Columns(
        transform.view,
        transform.key,
        _with_features(transform, [*timed, *new]).features,
        transform.heartbeat,
        transform.beat,
        transform.step,
        transform,
    )
    before, nothing = pl.DataFrame(schema=stored.schema), _values_of_nothing(old, beside)
    for chunk in _cut_at(start, covered):
        rows = stored.read(row_window(chunk, transform))
        if new and chunk.start >= start:
            tiles = {columns.view: tile_table(columns, beside).read(chunk)}
            made = compute.compute_rows(chunk, tiles, beside, {columns.view: columns})[columns.view]
            compute.keep_states(chunk, beside, {columns.view: columns})
            known = pl.concat([before, rows]).select(transform.key, EVENT_TIME, CREATED, *kept)
            merged = _carry(made, known, transform.key, timed, nothing)
        else:
            merged = rows.with_columns(pl.lit(None, dtype=schema[name]).alias(name) for name in new)
        yield chunk, merged.select(list(schema))
        before = pl.concat([before, rows]).sort(EVENT_TIME).unique(transform.key, keep="last", maintain_order=True)


def _carry(
    made: pl.DataFrame, known: pl.DataFrame, key: str, timed: Sequence[str], nothing: dict[str, Any]
) -> pl.DataFrame:
    """Rows `made`, each with the values of its key's newest `known` row."""
    had = "__had"
    both = made.sort(EVENT_TIME).join_asof(
        known.with_columns(pl.col(EVENT_TIME).alias(had)).sort(EVENT_TIME),
        on=EVENT_TIME,
        by=key,
        suffix="__known",
        check_sortedness=False,
    )
    same = (pl.col(had) == pl.col(EVENT_TIME)).fill_null(False)
    carried = [name for name in nothing if name not in timed]
    return both.with_columns(
        *[pl.when(same).then(f"{name}__known").otherwise(name).alias(name) for name in (CREATED, *timed)],
        *[pl.when(pl.col(had).is_null()).then(pl.lit(nothing[name])).otherwise(name).alias(name) for name in carried],
    ).sort(EVENT_TIME, key)


def _values_of_nothing(transform: ViewTransform, settings: Settings) -> dict[str, Any]:
    """The features of an entity of which no tile is in any window."""
    columns = {
        use.column: 0 if isinstance(use, Running) and use.partial.kind != "last" else None
        for feature in transform.features.values()
        for use in feature.uses
    }
    if not columns:
        return {}
    nothing = pl.DataFrame([columns], schema=dict.fromkeys(columns, pl.Int64))
    with engine(settings) as connection:
        sums = hand_over(connection, nothing, "nothing")
        return evaluate(connection, windows.finished, [sums], transform).row(0, named=True)


def _stored(table: PartitionedTable) -> PartitionedTable:
    """The same table with the columns that its files have now."""
    files = table.files()
    schema = pl.read_parquet_schema(files[0]) if files else table.schema
    return PartitionedTable(table.root, table.time_column, schema, table.sort_by)


def _with_features(transform: ViewTransform, names: Sequence[str]) -> ViewTransform:
    return replace(transform, features={name: transform.features[name] for name in transform.features if name in names})


def _transform(view: str) -> ViewTransform:
    if view not in TRANSFORMS:
        raise KeyError(f"no view {view!r}; there are {sorted(TRANSFORMS)}")
    return TRANSFORMS[view]


def _cut_at(start: datetime, covered: Window) -> Iterator[Window]:
    if covered.start < start:
        yield from chunks(Window(covered.start, start))
    yield from chunks(Window(start, covered.end))


def _keep_state(transform: ViewTransform, settings: Settings) -> None:
    compute.keep_states(covered_hours(settings), settings, {transform.view: transform})


def _accept(_view: str, _rows: pl.DataFrame, _window: Window, _settings: Settings) -> None:
    """Rows that only lose columns have been judged before."""


def _silent(_text: str) -> None:
    """Nobody waits for this."""


def _not_rows(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(".") or name == versions.FILE]


# Changing places.


def _beside(view: str, settings: Settings) -> Settings:
    """Settings under which the transforms write to tables beside the view's."""
    return settings.model_copy(update={"data_dir": settings.features.parent / "_evolving" / view})


def _begin(view: str, settings: Settings) -> Settings:
    """As `_beside`, after what a killed attempt left there has been removed."""
    beside = _beside(view, settings)
    if beside.data_dir.exists():
        shutil.rmtree(beside.data_dir)
    return beside


def _next_build(view: str, settings: Settings) -> int:
    kept = settings.features.parent / "_superseded"
    builds = [versions.build_of(table / view) or 0 for table in (settings.tiles, settings.features)]
    return 1 + max([*builds, *[int(path.name.rpartition("-")[2]) + 1 for path in kept.glob(f"{view}-*")]])


def _replace(record: versions.Record, settings: Settings) -> Path:
    """Put the finished tables beside in the place of the view's; returns where the old ones are."""
    beside = _beside(record.view, settings)
    note_replaced([record.view], covered_hours(settings).end, settings)
    versions.write_record(record, beside)
    write_atomically(beside.data_dir / READY, json.dumps({"build": record.build}))
    kept = _end_replacement(record.view, settings)
    assert kept is not None
    return kept


def _end_replacement(view: str, settings: Settings) -> Path | None:
    """Do what is left of a replacement that has begun, if one has. Killed anywhere, it is ended by the next call."""
    beside = _beside(view, settings)
    if not (beside.data_dir / READY).exists():
        return None
    build = int(json.loads((beside.data_dir / READY).read_text())["build"])
    # Snapshots are a cache, and those of another definition have other columns.
    for state in (settings.tiles / "_state" / view, beside.tiles / "_state"):
        shutil.rmtree(state, ignore_errors=True)
    for new, live in ((beside.tiles / view, settings.tiles / view), (beside.features / view, settings.features / view)):
        _change_places(new, live, build)
    shutil.rmtree(beside.staging, ignore_errors=True)
    kept = settings.features.parent / "_superseded" / f"{view}-{build - 1}"
    kept.parent.mkdir(parents=True, exist_ok=True)
    beside.data_dir.rename(kept)
    (kept / READY).unlink()
    logger.warning(
        "the tables of %s were replaced; the old ones are in %s, as long as they are among the newest %d",
        view,
        kept,
        settings.superseded_kept,
    )
    _forget_superseded(view, settings)
    return kept


def _forget_superseded(view: str, settings: Settings) -> None:
    """Delete all but the newest tables of a view that others have replaced."""
    builds = {
        int(path.name.rpartition("-")[2]): path
        for path in (settings.features.parent / "_superseded").glob(f"{view}-*")
        if path.name.rpartition("-")[0] == view
    }
    for build in sorted(builds)[: -settings.superseded_kept]:
        shutil.rmtree(builds[build])


def _change_places(new: Path, live: Path, build: int) -> None:
    """Put the directory `new` at `live` and the other way round, unless `live` is of this build already."""
    parked = new.with_name(f"{new.name}.parked")
    if versions.build_of(live) != build and not parked.exists():
        live.mkdir(parents=True, exist_ok=True)
        if _exchanged(new, live):
            return
        live.rename(parked)
    if parked.exists():
        if not live.exists():
            new.rename(live)
        parked.rename(new)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two directories in one step; False where the system or its file system cannot."""
    call = getattr(ctypes.CDLL(None), "renameat2", None)
    paths = [os.fsencode(path) for path in (one, other)]
    return call is not None and call(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0
