"""What a person reads about a training run: a Markdown page, also printed by the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def gates_table(gates: Iterable[Mapping[str, Any]]) -> str:
    """The gates with what they saw, as a Markdown table."""
    rows = [
        [gate["name"], _number(gate["observed"]), f"{gate['threshold']:g}", _verdict(gate), gate["reason"]]
        for gate in gates
    ]
    return _table(["gate", "observed", "threshold", "verdict", "reason"], rows)


def report(evaluation: Mapping[str, Any], title: str, unit: str) -> str:
    """A candidate's metrics, baselines, gates and slices.

    Parameters
    ----------
    evaluation : mapping
        What `training.evaluate.evaluate` returned, with `gates`.
    title : str
    unit : str
        Of the primary metric.
    """
    primary = evaluation["primary"]
    parts = [
        f"# {title}",
        f"The primary metric is `{primary}`, in {unit}.",
        _metrics_table(evaluation),
        *_known_lines(evaluation["metrics"], primary, unit),
        *_interval_lines(evaluation["interval"], unit),
        f"Left out between the parts, because their label was not known in time: {evaluation['gap']}.",
        "## Gates",
        gates_table(evaluation["gates"]),
        "## Parts of the validation rows",
        _parts_table([*evaluation["slices"], *evaluation["groups"]], primary),
    ]
    return "\n\n".join(parts) + "\n"


def _metrics_table(evaluation: Mapping[str, Any]) -> str:
    named = {"model": evaluation["metrics"], **evaluation["baselines"]}
    kinds = [
        key.removeprefix("test_") for key in evaluation["metrics"] if key.startswith("test_") and "_with_" not in key
    ]
    parts = evaluation["rows"]
    rows = [
        [name, kind, *(_number(metrics.get(f"{part}_{kind}")) for part in parts)]
        for name, metrics in named.items()
        for kind in kinds
    ]
    return _table(["", "metric", *(f"{part} ({count} rows)" for part, count in parts.items())], rows)


def _known_lines(metrics: Mapping[str, float], primary: str, unit: str) -> list[str]:
    middle = f"_{primary}_with_"
    return [
        f"With the {name.partition(middle)[2]} known: {name.partition(middle)[0]} {primary} {value:.2f} {unit}."
        for name, value in metrics.items()
        if middle in name
    ]


def _interval_lines(interval: Mapping[str, float] | None, unit: str) -> list[str]:
    if interval is None:
        return []
    return [
        f"The 80 % interval (prediction {interval['p10_offset']:+.2f} to {interval['p90_offset']:+.2f} {unit}) covers "
        f"{interval['test_coverage']:.1%} of the test rows."
    ]


def _parts_table(rows: Iterable[Mapping[str, Any]], primary: str) -> str:
    listed = [
        [row["slice"], str(row["rows"]), _number(row[primary]), _number(row["maximum"]), row["note"]] for row in rows
    ]
    return _table(["part", "rows", primary, "at most", ""], listed)


def _verdict(gate: Mapping[str, Any]) -> str:
    return "passed" if gate["passed"] else "**failed**"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}"


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
