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
        Of the label.
    """
    interval = evaluation["interval"]
    parts = [
        f"# {title}",
        f"Errors in {unit}. `mae` mean absolute error, `rmse` root mean squared error, `p90` its 90th percentile.",
        _metrics_table(evaluation),
        *_known_lines(evaluation["metrics"], unit),
        f"The 80 % interval (prediction {interval['p10_offset']:+.2f} to {interval['p90_offset']:+.2f} {unit}) covers "
        f"{interval['test_coverage']:.1%} of the test rows.",
        f"Left out between the parts, because their label was not known in time: {evaluation['gap']}.",
        "## Gates",
        gates_table(evaluation["gates"]),
        "## Parts of the validation rows",
        _table(
            ["part", "rows", "mae", ""],
            [[row["slice"], str(row["rows"]), _number(row["mae"]), row["note"]] for row in evaluation["slices"]],
        ),
    ]
    return "\n\n".join(parts) + "\n"


def _metrics_table(evaluation: Mapping[str, Any]) -> str:
    named = {"model": evaluation["metrics"], **evaluation["baselines"]}
    header = ["", *(f"{part} {kind}" for part in evaluation["rows"] for kind in ("mae", "rmse", "p90"))]
    keys = [f"{part}_{kind}" for part in evaluation["rows"] for kind in ("mae", "rmse", "p90")]
    rows = [[name, *(_number(metrics.get(key)) for key in keys)] for name, metrics in named.items()]
    return _table(
        header,
        [["rows", *(f"{count}" if n == 0 else "" for count in evaluation["rows"].values() for n in range(3))], *rows],
    )


def _known_lines(metrics: Mapping[str, float], unit: str) -> list[str]:
    return [
        f"With the {name.partition('_mae_with_')[2]} known: {name.partition('_mae_with_')[0]} mae {value:.2f} {unit}."
        for name, value in metrics.items()
        if "_mae_with_" in name
    ]


def _verdict(gate: Mapping[str, Any]) -> str:
    return "passed" if gate["passed"] else "**failed**"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:.1e}"


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
