"""What an id is: one rule for every door (files, landing folder, API), so that an id has the same text behind all.

An id is text that a person could write down. What can only be read in one way is put into its one form: white space
around it and characters that nobody sees are taken away, accents are composed (Unicode NFC), and `42.0`, which is how
42 comes out of a table with gaps, is `42`. What has lost the id on its way is refused with the reason: a fraction, a
number beyond 2**53, `1.23E+11`, a truth value, `nan`, `None` and the like.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from functools import lru_cache

MAX_ID_LENGTH = 128
LARGEST_EXACT = 2**53 - 1
"""Above it, a floating-point number stands for several whole numbers."""
SINGLE_EXACT = 2**24 - 1
"""The same of a number in single precision."""

PLAIN_PATTERN = r"[A-Za-z0-9_#:/@()&'*!?;=$%~-](?:[A-Za-z0-9_#:/@()&'*!?;=$%~ -]{0,126}[A-Za-z0-9_#:/@()&'*!?;=$%~-])?"
"""Texts that are ids as they stand, unless they are one of `NOT_IDS`: what engines check before they ask `read_id`.

Signs of which a number or a word for nothing could be made are not in it (`.`, `,`, `+`, `<`, a backslash)."""

_NAN_WORDS = ("nan", "NaN", "NAN", "NaT", "<NA>", "N/A", "n/a", "#N/A")
_NONE_WORDS = ("None", "none", "NONE", "null", "NULL", "Null", "nil", "NIL", "undefined", "<null>", "(null)", "\\N")
MISSING_WORDS = frozenset([*_NAN_WORDS, *_NONE_WORDS])
"""How programs write that there is no value. `NA` is not one of them: it is Namibia, and somebody's initials."""
TRUTH_WORDS = frozenset(["true", "false", "True", "False", "TRUE", "FALSE"])
_INFINITE_WORDS = frozenset(["inf", "-inf", "+inf", "Inf", "-Inf", "Infinity", "-Infinity", "infinity", "-infinity"])
NOT_IDS = MISSING_WORDS | TRUTH_WORDS | _INFINITE_WORDS

BLANK = "is blank"
FRACTION = "is a fraction: whole numbers and text are ids"
NOT_FINITE = "is no number: leave it empty where there is no id"
TOO_LARGE = "is a floating-point number so large that several ids become one: export it as text"
TRUTH = "is a truth value, not an id"
_MISSING = "is how programs write that there is none: leave it empty (null_values in `read`, or nullif() in `columns`)"
_SCIENTIFIC = "is a number in scientific notation, which has lost digits of the id: export it as text"
_CONTROL = "holds a control character: check how the file was written"
_REPLACED = "holds U+FFFD, which stands for characters that were lost in a wrong encoding: check the encoding"
_LONG = f"is longer than {MAX_ID_LENGTH} characters"
_NO_ID = "is no text and no whole number"

_PLAIN = re.compile(PLAIN_PATTERN)
_ROUNDED = re.compile(r"[+-]?\d+(?:[.,]\d+[eE][+-]?|[eE]\+)\d+")
_WHOLE_FLOAT = re.compile(r"(-?(?:0|[1-9]\d*))\.0+")
# Variation selectors, joiners, fillers: nobody sees them, though Unicode does not call all of them format characters.
_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2060-\u206f\u3164\ufe00-\ufe0f\uffa0]")
_BREAKS = re.compile("\\s*[\t\n\v\f\r\x85\u2028\u2029]\\s*")
_BLANKS = dict.fromkeys(map(ord, "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"), " ")
_BLANKS |= dict.fromkeys(map(ord, "\u202f\u205f\u2800\u3000"), " ")


class NoId(ValueError):
    """A value that is no id; the message says why, to be read after the value."""


def read_id(value: object) -> str:
    """The text of an id.

    Parameters
    ----------
    value : object
        As it came in: text, or a number.

    Returns
    -------
    str
        1 to `MAX_ID_LENGTH` characters.

    Raises
    ------
    NoId
        It is none; a blank is `BLANK`.

    Examples
    --------
    >>> read_id(" r17\\u200b"), read_id(42.0), read_id("042")
    ('r17', '42', '042')
    """
    if isinstance(value, str):
        return _read_text(value)
    if isinstance(value, bool):
        raise NoId(TRUTH)
    if isinstance(value, int):
        return _read_text(str(value)) if abs(value) < 10**MAX_ID_LENGTH else _refuse(_LONG)
    if isinstance(value, float | Decimal):
        return _read_number(value)
    return _refuse(_NO_ID)


def _refuse(reason: str) -> str:
    raise NoId(reason)


def _read_number(value: float | Decimal) -> str:
    if value != value or value in (float("inf"), float("-inf")):
        raise NoId(NOT_FINITE)
    if value != int(value):
        raise NoId(FRACTION)
    if isinstance(value, float) and abs(value) > LARGEST_EXACT:
        raise NoId(TOO_LARGE)
    return str(int(value))


@lru_cache(maxsize=16_384)  # the same restaurants and zones are asked for again and again
def _read_text(text: str) -> str:
    if _PLAIN.fullmatch(text) and text not in NOT_IDS:
        return text
    seen = _visible(text)
    if reason := _fault(seen):
        raise NoId(reason)
    whole = _WHOLE_FLOAT.fullmatch(seen)
    return str(int(whole.group(1))) if whole else seen


def _visible(text: str) -> str:
    """`text` in its one form: composed, without what nobody sees, every blank the plain one, none at its ends."""
    seen = "".join(sign for sign in text if unicodedata.category(sign) != "Cf")
    return unicodedata.normalize("NFC", _BREAKS.sub(" ", _UNSEEN.sub("", seen)).translate(_BLANKS)).strip()


def _too_large(text: str) -> bool:
    whole = _WHOLE_FLOAT.fullmatch(text)
    return whole is not None and abs(int(whole.group(1))) > LARGEST_EXACT


_FAULTS: tuple[tuple[str, Callable[[str], bool]], ...] = (
    (BLANK, lambda text: not text),
    (_LONG, lambda text: len(text) > MAX_ID_LENGTH),
    (_REPLACED, lambda text: "\ufffd" in text),
    (_CONTROL, lambda text: any(unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp") for sign in text)),
    (_MISSING, lambda text: text in MISSING_WORDS),
    (TRUTH, lambda text: text in TRUTH_WORDS),
    (NOT_FINITE, lambda text: text in _INFINITE_WORDS),
    (_SCIENTIFIC, lambda text: _ROUNDED.fullmatch(text) is not None),
    (TOO_LARGE, _too_large),
)
"""In the order in which they are asked: the later ones may count on what the earlier ones found."""


def _fault(text: str) -> str | None:
    """Why a text in its one form is no id."""
    return next((reason for reason, is_so in _FAULTS if is_so(text)), None)
