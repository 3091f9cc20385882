"""What an id is: tables of what comes in and what becomes of it."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from feature_repo.ids import MISSING_WORDS, NOT_IDS, TRUTH_WORDS, NoId, read_id

SAME = ["r1", "042", "Pizza Roma #1", "12e5", "4E-12", "NA", "No", "on", "-5", "1.5", "a.b@c.de", "Größe", "٣", "a  b"]
CHANGED = {
    " r1 ": "r1",
    "r1\r\n": "r1",
    "\ufeffr1": "r1",
    "r\u200b1\u2060": "r1",
    "a\u00a0b": "a b",
    "\u3000a\u2009b\u00a0": "a b",
    "cafe\u0301": "caf\u00e9",
    "☕\ufe0f": "☕",
    "a\nb": "a b",
    "a \r\n\tb": "a b",
    "a\u2028b\x85c": "a b c",
    "42.0": "42",
    "-42.00": "-42",
    "-0.0": "0",
}
REFUSED = {
    "": "is blank",
    " \u00a0\u200b": "is blank",
    "a\x00b": "control character",
    "a\x1bb": "control character",
    "caf\ufffd": "lost in a wrong encoding",
    "\ud800": "control character",
    "x" * 129: "longer than 128 characters",
    "9" * 5_000 + ".0": "longer than 128 characters",
    "1.23E+11": "scientific notation",
    "1,23E+11": "scientific notation",
    "1e+17": "scientific notation",
    "1.0E5": "scientific notation",
    "100000000000000000.0": "so large that several ids become one",
    "-inf": "is no number",
    **dict.fromkeys(sorted(MISSING_WORDS), "how programs write that there is none"),
    **dict.fromkeys(sorted(TRUTH_WORDS), "truth value"),
}
NUMBERS = {5: "5", 2**63: str(2**63), 42.0: "42", -0.0: "0", 2.0**53 - 1: str(2**53 - 1), Decimal("7.00"): "7"}
NO_NUMBERS = [
    (True, "truth value"),
    (1.5, "is a fraction"),
    (Decimal("1.5"), "is a fraction"),
    (1e17, "so large that several"),
    (2.0**53, "so large that several"),
    (float("nan"), "is no number"),
    (float("-inf"), "is no number"),
    (10**200, "longer than 128"),
    (None, "no text and no whole number"),
    (b"r1", "no text and no whole number"),
]


@pytest.mark.parametrize("text", SAME)
def test_an_id_stays_as_it_is(text):
    assert read_id(text) == text


@pytest.mark.parametrize(("text", "expected"), CHANGED.items(), ids=map(ascii, CHANGED))
def test_what_nobody_sees_is_put_into_its_one_form(text, expected):
    assert read_id(text) == expected


@pytest.mark.parametrize(("text", "reason"), REFUSED.items(), ids=[ascii(text)[:30] for text in REFUSED])
def test_what_has_lost_the_id_is_refused_with_the_reason(text, reason):
    with pytest.raises(NoId, match=reason):
        read_id(text)


@pytest.mark.parametrize(("value", "expected"), NUMBERS.items())
def test_whole_numbers_are_ids(value, expected):
    assert read_id(value) == expected


@pytest.mark.parametrize(("value", "reason"), NO_NUMBERS, ids=[repr(value)[:20] for value, _ in NO_NUMBERS])
def test_other_values_are_not(value, reason):
    with pytest.raises(NoId, match=reason):
        read_id(value)


@given(st.text(max_size=140))
@hypothesis_settings(deadline=None)
def test_an_id_that_was_read_reads_as_itself(text):
    try:
        found = read_id(text)
    except NoId:
        return
    assert read_id(found) == found
    assert found not in NOT_IDS
