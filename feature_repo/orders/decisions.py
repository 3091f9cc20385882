"""`--allow`: what a person decided for one ingestion, where the data alone cannot say what is meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from feature_repo.orders.mapping_file import MappingError, suggest

OUT_OF_SPAN, FORMATS, AMBIGUOUS, NONEXISTENT = "out-of-span", "formats", "ambiguous", "nonexistent"
HELP = (
    "what you decided where the orders alone cannot say what is meant, separated by commas: out-of-span (orders far "
    "from all others are meant), formats=FORMAT (where two of time.formats fit), ambiguous=earlier|later and "
    "nonexistent=earlier|later (local hours that clocks repeat or skip). See docs/orders.md"
)
_READINGS = ("earlier", "later")
_NAMES = (OUT_OF_SPAN, FORMATS, AMBIGUOUS, NONEXISTENT)


@dataclass(frozen=True, slots=True)
class Allowed:
    """The decisions of one ingestion; nothing is decided by default.

    Attributes
    ----------
    out_of_span : bool
        Versions that lie apart from all others are meant.
    formats : tuple of str
        Time formats that are meant where another one fits as well.
    ambiguous, nonexistent : str, optional
        Which reading of local times is meant that clocks repeat or skip: `earlier` or `later`.
    words : tuple of str
        The decisions as they were written, for the records.
    """

    out_of_span: bool = False
    formats: tuple[str, ...] = ()
    ambiguous: str | None = None
    nonexistent: str | None = None
    words: tuple[str, ...] = ()


def parse_allowed(texts: Sequence[str]) -> Allowed:
    """The decisions in texts such as `out-of-span,ambiguous=later`.

    Raises
    ------
    MappingError
        One of them is no decision that can be made.
    """
    words = tuple(word.strip() for text in texts for word in text.split(",") if word.strip())
    pairs = [_split(word) for word in words]
    for name in (AMBIGUOUS, NONEXISTENT):
        if len({value for key, value in pairs if key == name}) > 1:
            raise MappingError(f"--allow {name}: say either earlier or later")
    chosen = dict(pairs)
    return Allowed(
        out_of_span=OUT_OF_SPAN in chosen,
        formats=tuple(value for key, value in pairs if key == FORMATS),
        ambiguous=chosen.get(AMBIGUOUS),
        nonexistent=chosen.get(NONEXISTENT),
        words=words,
    )


def _split(word: str) -> tuple[str, str]:
    name, _, value = word.partition("=")
    if name not in _NAMES:
        raise MappingError(f"--allow {word}: there is no such decision.{suggest(name, _NAMES)} Known: {list(_NAMES)}")
    if name in (AMBIGUOUS, NONEXISTENT) and value not in _READINGS:
        raise MappingError(f"--allow {word}: write {name}=earlier or {name}=later")
    if name == FORMATS and not value:
        raise MappingError(f"--allow {word}: write formats=FORMAT, a format of the mapping")
    if name == OUT_OF_SPAN and value:
        raise MappingError(f"--allow {word}: write {name} alone")
    return name, value
