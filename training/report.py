"""What a person reads about a training run: a Markdown page, also printed by the command line."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

ENDS = ("Least often,", "most often,")


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
        *seen_lines(evaluation),
        f"Left out between the parts, because their label was not known in time: {evaluation['gap']}.",
        "## Gates",
        gates_table(evaluation["gates"]),
        "## Parts of the validation rows",
        _parts_table([*evaluation["slices"], *evaluation["groups"]], primary),
        *_interval_section(evaluation, unit),
        *_business_section(evaluation, unit),
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


def seen_lines(evaluation: Mapping[str, Any]) -> list[str]:
    """Which rows the registered and the judged models were fitted on."""
    if "seen" not in evaluation:
        return []
    judged, registered = evaluation["seen"]["judged"], evaluation["seen"]["registered"]
    return [
        f"What is registered was fitted on all {registered['rows']} rows with a known label, {_span(registered)}. "
        f"Every figure is of the same models fitted on the oldest {judged['rows']} of them, {_span(judged)}."
    ]


def interval_lines(interval: Mapping[str, Any] | None, unit: str) -> list[str]:
    """How often the interval holds, and where it does so least and most often."""
    if interval is None:
        return []
    told = [part for part in interval["parts"] if part["coverage"] is not None]
    ends = [min(told, key=_coverage), max(told, key=_coverage)] if told else []
    return [
        f"The 80 % interval holds {interval['test_coverage']:.1%} of the test rows, {interval['below']:.1%} come "
        f"before it and {interval['above']:.1%} after it; its mean width is {interval['mean_width']:.2f} {unit}."
        + "".join(f" {text} {end['coverage']:.1%}: {end['part']}." for text, end in zip(ENDS, ends, strict=False))
    ]


def business_lines(business: Mapping[str, Any] | None, unit: str) -> list[str]:
    """What became of promises, in sentences."""
    if business is None:
        return []
    length = "long" if business["bias"] > 0 else "short"
    late = f"If the 90th percentile is promised, {business['late_share']:.1%} of the test rows are late"
    if business["late_by"] is not None:
        late += f", in the mean by {business['late_by']:.2f} {unit}; their error is {business['late_error']:.2f}"
    mean = f"In the mean, predictions are {abs(business['bias']):.2f} {unit} too {length}."
    return [f"{late}. {mean}", *_platform_lines(business["platform"], unit)]


def _platform_lines(platform: Mapping[str, Any] | None, unit: str) -> list[str]:
    if platform is None:
        return []
    told = (
        f"On the {platform['rows']} test rows with an estimate of the platform's own, its error is "
        f"{platform['error']:.2f} {unit}, this model's {platform['model_error']:.2f}; {platform['late_share']:.1%} "
        "came after the platform's estimate"
    )
    if platform["late_error"] is None:
        return [f"{told}."]
    return [
        f"{told}: of these its error is {platform['late_error']:.2f}, this model's {platform['model_late_error']:.2f}."
    ]


def _interval_section(evaluation: Mapping[str, Any], unit: str) -> list[str]:
    interval = evaluation["interval"]
    if interval is None:
        return []
    rows = [
        [part["part"], str(part["rows"]), _percent(part["coverage"]), _number(part["error"])]
        for part in interval["parts"]
    ]
    table = _table(["part of the test rows", "rows", "in the interval", f"mean absolute error, {unit}"], rows)
    return ["## Where the 80 % interval holds", *interval_lines(interval, unit), table]


def _business_section(evaluation: Mapping[str, Any], unit: str) -> list[str]:
    lines = business_lines(evaluation.get("business"), unit)
    return ["## Promises", *lines] if lines else []


def _coverage(part: Mapping[str, Any]) -> float:
    return float(part["coverage"])


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _span(rows: Mapping[str, str]) -> str:
    return f"{rows['first'][:16].replace('T', ' ')} to {rows['last'][:16].replace('T', ' ')}"


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
