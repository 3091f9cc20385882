"""The page of measurements shows what the kept results say, and nothing else."""

from __future__ import annotations

import json

import pytest

from benchmarks import render
from benchmarks.harness import RESULTS

RESULT = {
    "anchor": "theirs",
    "measured": [
        {"contender": "theirs", "size": "1 M", "seconds": 10.0, "peak_mebibytes": 400.0, "runs": 3, "facts": {}},
        {
            "contender": "ours",
            "size": "1 M",
            "seconds": 2.5,
            "peak_mebibytes": 100.0,
            "runs": 3,
            "facts": {"rows": 1000000},
        },
    ],
    "versions": {"python": "3.11"},
    "machine": {"cores": 2, "architecture": "x86_64"},
}


def test_a_section_is_made_anew_with_ratios_to_the_anchor() -> None:
    page = render.rendered("Words.\n<!-- join -->\nold figures\n<!-- end -->\nMore.", {"join": RESULT})
    assert "| 1 M | ours | 2.50 | 0.25 | 100 | 0.25 | 1,000,000 |" in page
    assert "old figures" not in page
    assert page.startswith("Words.\n")
    assert page.endswith("\nMore.")
    assert render.rendered(page, {"join": RESULT}) == page


def test_a_section_without_a_result_names_the_command_that_makes_it() -> None:
    with pytest.raises(KeyError, match="make bench NAME=join"):
        render.rendered("<!-- join -->\n<!-- end -->", {})


def test_the_committed_page_shows_the_committed_results() -> None:
    results = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    page = render.PAGE.read_text()
    assert render.rendered(page, results) == page, "run python -m benchmarks.render"
    shown = {found["name"] for found in render.SECTION.finditer(page)}
    assert shown == set(results), "a result that docs/benchmarks.md does not show, or a section without one"
    missing = [name for name in shown if not (render.IMAGES / f"benchmark_{name}.svg").exists()]
    assert not missing, "run python -m benchmarks.render"


def test_a_plot_is_the_same_bytes_for_the_same_figures(tmp_path) -> None:
    for name in ("a.svg", "b.svg"):
        render.plot(RESULT, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert b"<svg" in (tmp_path / "a.svg").read_bytes()
