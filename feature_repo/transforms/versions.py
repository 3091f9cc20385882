"""Which definition the rows on disk were made under, and whether the code still has the same one.

A feature whose expression, window, type or facts change is another feature: rows of both in one table would be a silent
mix. So each definition has a fingerprint, the tables record those of their rows, and a run that finds others refuses.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import ibis
import ibis.expr.operations as ops

from config import Settings
from feature_repo.files import write_atomically
from feature_repo.transforms.coverage import read_coverage
from feature_repo.transforms.spec import Feature, Now, Running, ViewTransform, span_text
from feature_repo.transforms.tables import feature_table, row_window, tile_table
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import Window, as_utc

LOGIC_VERSION = 3
"""Version of what all views share: `facts`, `tiles` and `windows`. Raise it when the same orders lead to other values
or other rows; not for a change that only makes them faster. A test holds results against it."""
FILE = "_definition.json"


class DefinitionChanged(RuntimeError):
    """The rows on disk were not made under the code's definitions; the message says which, and what to do."""


@dataclass(frozen=True, slots=True)
class FeatureRecord:
    """How one column of a table came about.

    Attributes
    ----------
    fingerprint : str
    available_from : datetime
        Event time of the first row that has it; before, it is null.
    since : datetime
        End of the hours that were filled in at once when this definition came: those were never served with it.
    """

    fingerprint: str
    available_from: datetime
    since: datetime


@dataclass(frozen=True, slots=True)
class Record:
    """What a view's tables say about themselves. `build` counts how often they were replaced as a whole."""

    view: str
    build: int
    rows: str
    features: Mapping[str, FeatureRecord]


@dataclass(frozen=True, slots=True)
class Differences:
    """What the code has that a view's tables have not, and the other way round."""

    view: str
    rows: tuple[str, str] | None
    changed: Mapping[str, tuple[str, str]]
    added: tuple[str, ...]
    removed: tuple[str, ...]

    def problems(self) -> list[str]:
        """Why a run must not go on; a removed feature is no reason."""
        told = []
        if self.rows:
            told.append(
                f"{self.view} has another key, heartbeat, beat, step or shared logic (its rows were made under "
                f"{self.rows[0]}, the code says {self.rows[1]}): run `{rebuild_command(self.view)}`"
            )
        told += [
            f"{self.view}.{name} has changed (its rows were made under {old}, the code says {new}): give the changed "
            f"feature a name of its own ({name}_v2), or run `{rebuild_command(self.view)}`"
            for name, (old, new) in self.changed.items()
        ]
        if self.added and not told:
            names = " ".join(f"{self.view}.{name}" for name in self.added)
            told.append(f"{names}: new, not in the rows on disk: run `python -m feature_repo backfill-feature {names}`")
        return told


def rebuild_command(view: str) -> str:
    """What to type to make a view's tables anew."""
    return f"python -m feature_repo rebuild {view}"


@functools.cache
def fingerprint(feature: Feature) -> str:
    """A hash of what a feature means: type, sums and finishing expression; not of how its source is written.

    Raises
    ------
    ValueError
        Its expression calls a Python function, whose meaning cannot be seen.
    """
    sums = ibis.table({use.column: "int64" for use in feature.uses}, name="sums")
    finished = feature.finish(*[sums[use.column] for use in feature.uses])
    return _hash([feature.dtype, [_use(use) for use in feature.uses], _structure(finished.op())])


def rows_fingerprint(transform: ViewTransform) -> str:
    """A hash of what decides which rows a view has, apart from its features."""
    return _hash([transform.key, *map(span_text, (transform.heartbeat, transform.beat, transform.step)), LOGIC_VERSION])


def fingerprints(transforms: Mapping[str, ViewTransform] = TRANSFORMS) -> dict[str, dict[str, str]]:
    """The code's definitions: by view, the fingerprint of its rows (under the empty name) and of each feature."""
    return {
        view: {"": rows_fingerprint(transform)}
        | {name: fingerprint(feature) for name, feature in transform.features.items()}
        for view, transform in transforms.items()
    }


def available_from(view: str, feature: str, settings: Settings) -> datetime | None:
    """Event time of the first row that has a feature; None when no row has it yet.

    Raises
    ------
    KeyError
        The code has no such view or feature.
    DefinitionChanged
        The record is damaged.
    """
    if feature not in TRANSFORMS[view].features:
        raise KeyError(f"{view} has no feature {feature!r}, but {list(TRANSFORMS[view].features)}")
    record = read_record(view, settings)
    found = record.features.get(feature) if record else None
    return found.available_from if found else None


def require_current(settings: Settings) -> None:
    """Make sure that the tables' rows were made under the code's definitions.

    Raises
    ------
    DefinitionChanged
        They were not, or cannot tell.
    """
    problems = [problem for view in TRANSFORMS for problem in _problems(view, settings)]
    if problems:
        raise DefinitionChanged("; ".join(problems))


def differences(transform: ViewTransform, record: Record) -> Differences:
    """Hold the code's definition of a view against that of its rows."""
    rows, features = rows_fingerprint(transform), fingerprints({transform.view: transform})[transform.view]
    known = {name: found.fingerprint for name, found in record.features.items()}
    both = {name: (known[name], features[name]) for name in transform.features if name in known}
    return Differences(
        view=transform.view,
        rows=None if rows == record.rows else (record.rows, rows),
        changed={name: pair for name, pair in both.items() if pair[0] != pair[1]},
        added=tuple(name for name in transform.features if name not in known),
        removed=tuple(name for name in known if name not in transform.features),
    )


def note_span(window: Window, settings: Settings) -> None:
    """Record that a window is about to be published: the definitions of new tables, or an earlier begin of old ones."""
    for view, transform in TRANSFORMS.items():
        record = None if is_fresh(transform, settings) else read_record(view, settings)
        if record is None:
            write_record(new_record(transform, window.start, since=window.start, build=1), settings)
            continue
        longer = {name: _extended(found, row_window(window, transform)) for name, found in record.features.items()}
        if longer != record.features:
            write_record(replace(record, features=longer), settings)


def new_record(transform: ViewTransform, start: datetime, since: datetime, build: int) -> Record:
    """The record of tables whose rows, from the hour that begins at `start`, are all made under this definition."""
    made = {
        name: FeatureRecord(fingerprint(feature), start + transform.step, since)
        for name, feature in transform.features.items()
    }
    return Record(transform.view, build, rows_fingerprint(transform), made)


def is_fresh(transform: ViewTransform, settings: Settings) -> bool:
    """Whether nothing has been computed for a view, so that any definition may begin."""
    tables = (tile_table(transform, settings), feature_table(transform, settings))
    return read_coverage(settings) is None and not any(table.files() for table in tables)


def read_record(view: str, settings: Settings) -> Record | None:
    """What a view's tables say about themselves; None when they say nothing.

    Raises
    ------
    DefinitionChanged
        The record is damaged, or tiles and rows are not of the same build.
    """
    path = settings.features / view / FILE
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        features = {name: _feature_record(found) for name, found in content["features"].items()}
        record = Record(str(content["view"]), int(content["build"]), str(content["rows"]), features)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DefinitionChanged(
            f"{path} is damaged ({error!r}), so nobody knows how the rows of {view} were made: restore it, or run "
            f"`{rebuild_command(view)}`"
        ) from error
    tiles = build_of(settings.tiles / view)
    if record.view != view or tiles != record.build:
        raise DefinitionChanged(
            f"{path} is that of {record.view}, build {record.build}, but its tiles are of build {tiles}: restore both "
            f"tables together, or run `{rebuild_command(view)}`"
        )
    return record


def build_of(table: Path) -> int | None:
    """Which build a directory of tiles or rows belongs to; None when it does not say."""
    try:
        return int(json.loads((table / FILE).read_text())["build"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_record(record: Record, settings: Settings) -> None:
    """Put a record beside both tables of its view."""
    features = {
        name: {
            "fingerprint": found.fingerprint,
            "available_from": found.available_from.isoformat(),
            "since": found.since.isoformat(),
        }
        for name, found in record.features.items()
    }
    content = {"view": record.view, "build": record.build, "rows": record.rows, "features": features}
    _write(settings.tiles / record.view, {"view": record.view, "build": record.build})
    _write(settings.features / record.view, content)


def _problems(view: str, settings: Settings) -> list[str]:
    transform = TRANSFORMS[view]
    if is_fresh(transform, settings):
        return []
    try:
        record = read_record(view, settings)
    except DefinitionChanged as error:
        return [str(error)]
    if record is None:
        return [
            f"the tables of {view} do not say under which definition their rows were made: "
            f"run `{rebuild_command(view)}`"
        ]
    return differences(transform, record).problems()


def _extended(found: FeatureRecord, rows: Window) -> FeatureRecord:
    earlier = rows.start < found.available_from <= rows.end
    return replace(found, available_from=rows.start) if earlier else found


def _feature_record(content: Mapping[str, str]) -> FeatureRecord:
    return FeatureRecord(str(content["fingerprint"]), as_utc(content["available_from"]), as_utc(content["since"]))


def _use(use: Running | Now) -> list[Any]:
    if isinstance(use, Now):
        return ["now"]
    measure = use.partial.measure
    window = "ever" if use.window is None else span_text(use.window)
    return [measure.name, measure.fact, measure.value, measure.per_unit, use.partial.kind, window]


def _structure(node: Any) -> Any:
    """An expression as nested lists of names: the same in every process, whatever its source looks like."""
    if isinstance(node, ops.Field):
        return ["Field", node.name]
    if isinstance(node, ops.ScalarUDF | ops.AggUDF):
        raise ValueError(f"{type(node).__name__} is a function that Ibis cannot see into: write it as an expression")
    if isinstance(node, ops.Node):
        return [type(node).__name__, *[_structure(argument) for argument in node.__args__]]
    if isinstance(node, tuple):
        return [_structure(item) for item in node]
    return str(node)


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _write(table: Path, content: Mapping[str, Any]) -> None:
    table.mkdir(parents=True, exist_ok=True)
    write_atomically(table / FILE, json.dumps(content, indent=1) + "\n")
