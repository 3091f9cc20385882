"""The YAML file that says how somebody's orders become canonical ones; its reference is in docs/orders.md."""

from __future__ import annotations

import codecs
import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from config.zones import time_zone
from feature_repo.orders.fold import correctable
from feature_repo.orders.schema import LANDING_SCHEMA

SQLValue = str | bool | int | float | None
"""The name of a source column, a SQL expression over source columns, or a constant."""

REQUIRED_IN_MAPPING = ("order_id", "restaurant_id", "placed_at")
UNIX_FORMATS = ("unix", "unix_ms", "unix_us", "unix_ns")
"""Seconds, milliseconds, microseconds and nanoseconds since 1970."""


class MappingError(ValueError):
    """A mapping, or the orders it is applied to, cannot be used; the message names the field and what to do."""


def suggest(name: str, known: Iterable[str]) -> str:
    """` Did you mean 'x'?` when a known name is close, else nothing."""
    folded = {other.casefold(): other for other in known}
    close = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f" Did you mean {folded[close[0]]!r}?" if close else ""


def _canonical(name: str) -> str:
    if name not in LANDING_SCHEMA:
        raise ValueError(
            f"{name!r} is not a canonical column.{suggest(name, LANDING_SCHEMA)} Known: {[*LANDING_SCHEMA]}"
        )
    return name


def _format(text: str) -> str:
    if text not in UNIX_FORMATS and "%" not in text:
        raise ValueError(f"{text!r} is no time format; write one like '%d.%m.%Y %H:%M', or one of {UNIX_FORMATS}")
    if "%I" in text and "%p" not in text:
        raise ValueError(f"{text!r} has %I, an hour of twelve, without %p: 01:10 may be by night or by day")
    return text


def _one_sign(text: str) -> str:
    if len(text) != 1 or text in "\r\n\0":
        raise ValueError(f"{text!r} is not one sign")
    return text


def _quote(text: str) -> str:
    return "" if text.casefold() in ("none", "") else _one_sign(text)


def _delimiter(text: str) -> str:
    sign = "\t" if text.casefold() in ("tab", "\\t") else text
    if not 1 <= len(sign) <= 4 or any(end in sign for end in "\r\n\0"):
        raise ValueError(f"{text!r} is no delimiter: write one to four signs, or 'tab'")
    return sign


def _number_sign(text: str) -> str:
    if len(text) != 1 or text.isalnum() or text in "+-":
        raise ValueError(f"{text!r} is no decimal or thousands sign: write one such as ',' or '.'")
    return text


def _encoding(name: str) -> str:
    try:
        "".encode(name)  # Refuses codecs that do not make bytes of text, such as rot13.
        return codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise ValueError(f"{name!r} is no encoding that Python knows; write one like 'utf-8' or 'cp1252'") from error


_FORMATS_OF = {"table": ("sql",), "query": ("sql",)}
"""Formats that an option of `Read` belongs to; the others belong to csv."""

Column = Annotated[str, AfterValidator(_canonical)]
Columns = dict[Column, SQLValue]
Zone = Annotated[str, AfterValidator(time_zone)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Read(_Model):
    """Where the rows are and in which form.

    A CSV file is what RFC 4180 says, unless an option says otherwise: nothing of it is found out by looking at data,
    except the delimiter, which the header has to show.
    """

    format: Literal["csv", "parquet", "sql"]
    delimiter: Annotated[str, AfterValidator(_delimiter)] | None = None
    quote: Annotated[str, AfterValidator(_quote)] = '"'
    escape: Annotated[str, AfterValidator(_one_sign)] | None = None
    comment: Annotated[str, Field(min_length=1, max_length=8)] | None = None
    skip: int = Field(default=0, ge=0)
    strict: bool = True
    encoding: Annotated[str, AfterValidator(_encoding)] = "utf-8"
    null_values: list[str] = Field(default_factory=lambda: [""])
    decimal: Annotated[str, AfterValidator(_number_sign)] = "."
    thousands: Annotated[str, AfterValidator(_number_sign)] | None = None
    table: str | None = None
    query: str | None = None

    @model_validator(mode="after")
    def _options_fit_the_format(self) -> Read:
        if self.format == "sql" and (self.table is None) == (self.query is None):
            raise ValueError("format sql needs either `table` or `query`")
        for name in sorted(self.model_fields_set - {"format"}):
            formats = _FORMATS_OF.get(name, ("csv",))
            if self.format not in formats:
                raise ValueError(f"`{name}` belongs to format {' or '.join(formats)}, not {self.format}")
        if self.decimal == self.thousands:
            raise ValueError(f"`decimal` and `thousands` are both {self.decimal!r}: a number could not be read")
        if self.delimiter is not None and self.delimiter in (self.quote, self.comment):
            raise ValueError(f"`delimiter` {self.delimiter!r} is the sign of quotes or comments, too")
        return self


class Time(_Model):
    """How times without a zone are meant, how text becomes a time, and by which clock the market lives."""

    zone: Zone = "UTC"
    market_zone: Zone | None = None
    """Whose hours and weekdays the features name; see `market`."""
    formats: list[Annotated[str, AfterValidator(_format)]] = Field(default_factory=list)
    ambiguous: Literal["refuse", "earlier", "later"] = "refuse"
    """A local hour that the clocks of the zone have twice."""
    nonexistent: Literal["refuse", "earlier", "later"] = "refuse"
    """A local hour that they skip: by the offset after the change (earlier) or the one before it (later)."""
    int96: Literal["utc", "zone"] | None = None
    """Parquet's old type of times, which names no zone: Spark writes UTC, Hive and Impala local time."""


class Version(_Model):
    """One of several versions that a source row stands for."""

    name: str
    where: str | None = None
    unknown: list[Column] = Field(default_factory=list)
    columns: Columns = Field(default_factory=dict)


class Quarantine(_Model):
    """How many unreadable rows are tolerated."""

    max_share: float = Field(default=0.2, ge=0, le=1)


class Mapping(_Model):
    """A whole mapping file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
    read: Read
    columns: Columns
    time: Annotated[Time, BeforeValidator(lambda value: {} if value is None else value)] = Field(default_factory=Time)
    where: str | None = None
    versions: list[Version] = Field(default_factory=list)
    corrections: Annotated[tuple[str, ...], BeforeValidator(correctable)] = ()
    """Columns in which a null, or an earlier status, takes back what was known; `true` for all."""
    quarantine: Quarantine = Field(default_factory=Quarantine)
    gate_thresholds: dict[str, dict[str, float]] = Field(default_factory=dict)
    """By model and gate: what `ETA_GATE_THRESHOLDS` should be for this data. `make run` uses it."""

    @model_validator(mode="after")
    def _required_columns_are_mapped(self) -> Mapping:
        missing = [name for name in REQUIRED_IN_MAPPING if self.columns.get(name) is None]
        if missing:
            raise ValueError(f"columns: {missing} must be mapped, every order has them")
        names = [version.name for version in self.versions]
        if len(set(names)) < len(names):
            raise ValueError(f"versions: the names {names} are not distinct")
        if self.name == "simulator":
            raise ValueError("name: 'simulator' is taken by the simulator, choose another")
        return self

    @property
    def market_zone(self) -> str:
        """The zone whose clock customers eat by: as said, else that of the times."""
        return self.time.market_zone or self.time.zone

    @property
    def mapped(self) -> list[str]:
        """The canonical columns that get a value from the source; a constant null is none."""
        given = [*self.columns.items(), *(item for version in self.versions for item in version.columns.items())]
        return list(
            dict.fromkeys(name for name, value in given if str(value).strip().casefold() not in ("none", "null"))
        )


class _StrictLoader(yaml.SafeLoader):
    """YAML whose plain words are text, and without repeated keys.

    YAML 1.1, which the library reads, takes `No` and `On` for truth values, `010` for 8, `12:30:00` for 45000 and
    `2026-05-01` for a date. As in YAML 1.2, only `true` and `false` are truth values here, and only plain decimal
    numbers are numbers. Of two lines that map the same column, one would silently be lost.
    """

    yaml_implicit_resolvers = {}  # noqa: RUF012  the library adds to it, for this class alone

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key) for key, _ in node.value if not key.tag.endswith(":merge")]
        repeated = sorted({str(key) for key in keys if keys.count(key) > 1})
        if repeated:
            raise yaml.constructor.ConstructorError(None, None, f"the keys {repeated} are repeated", node.start_mark)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)", "-+0123456789"),
    ("float", r"[-+]?(?:(?:0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("merge", r"<<", "<"),
):
    _StrictLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def load_mapping(path: Path) -> Mapping:
    """Read and check a mapping file.

    Raises
    ------
    MappingError
        The file is absent, is not YAML, or has a wrong or unknown field; the message lists all of them.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _StrictLoader)
    except FileNotFoundError as error:
        raise MappingError(f"{path}: there is no such mapping file; examples/ has some to start from") from error
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise MappingError(f"{path} cannot be read as YAML: {error}") from error
    if not isinstance(content, dict):
        raise MappingError(f"{path} holds no mapping: it needs at least `name`, `read` and `columns`")
    try:
        return Mapping.model_validate(content)
    except ValidationError as error:
        raise MappingError("\n".join([f"{path} is not a usable mapping:", *_problems(error)])) from error


def _problems(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"] if part != "[key]")
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = f"unknown field.{suggest(str(problem['loc'][-1]), _fields_beside(problem['loc']))}"
        lines.append(f"  {place}: {message}" if place else f"  {message}")
    return lines


def _fields_beside(location: tuple[int | str, ...]) -> list[str]:
    models: dict[Any, type[BaseModel]] = {
        "read": Read,
        "time": Time,
        "versions": Version,
        "quarantine": Quarantine,
    }
    return list((models.get(location[0], Mapping) if len(location) > 1 else Mapping).model_fields)
