"""The report as one HTML page that needs nothing else, and the model card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from training.report import business_lines, gates_table, interval_lines, seen_lines

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0 1.5rem}
td,th{padding:.15rem .7rem;text-align:left;border-bottom:1px solid #ddd}
.bar{background:#4878a8;height:.8rem;min-width:1px}.failed{color:#b00020;font-weight:600}.passed{color:#1b7f3b}
td.chart{width:20rem}"""
MOST_INPUTS = 20


def html_report(evaluation: Mapping[str, Any], title: str, unit: str) -> str:
    """The gates, the metrics, and bar charts of slices, residuals, calibration and permutation importance.

    Parameters
    ----------
    evaluation : mapping
        What `training.pipeline.evaluate` returns: with `gates` and `pictures`.
    title, unit : str
        The unit is that of the primary metric.
    """
    primary, drawn = evaluation["primary"], evaluation["pictures"]
    slices = [row for row in (*evaluation["slices"], *evaluation["groups"]) if row[primary] is not None]
    edges = drawn["residuals"]["edges"]
    covered = [part for part in (evaluation["interval"] or {}).get("parts", ()) if part["coverage"] is not None]
    told = [*interval_lines(evaluation["interval"], unit), *business_lines(evaluation["business"], unit)]
    parts = [
        "<h2>Gates</h2>",
        _gates(evaluation["gates"]),
        "<h2>Metrics</h2>",
        *(f"<p>{escape(line)}</p>" for line in (*seen_lines(evaluation), *told)),
        _metrics(evaluation),
        f"<h2>Parts of the validation rows ({escape(primary)}, {escape(unit)})</h2>",
        _bars((row["slice"], row[primary], f"{row[primary]:.3g} on {row['rows']} rows") for row in slices),
        *_coverage_bars(covered),
        "<h2>Residuals of the test rows (predicted minus actual)</h2>",
        _bars(
            (f"{low:.3g} to {high:.3g}", count, str(count))
            for low, high, count in zip(edges, edges[1:], drawn["residuals"]["counts"], strict=False)
        ),
        "<h2>Calibration of the test rows, by tenths of the prediction</h2>",
        _bars(
            (f"predicted {row['predicted']:.3g}", row["actual"], f"actual {row['actual']:.3g}")
            for row in drawn["calibration"]
        ),
        f"<h2>Permutation importance: growth of {escape(primary)} when the input is shuffled</h2>",
        _bars(
            (name, max(grown, 0.0), f"{grown:+.3g}") for name, grown in list(drawn["importance"].items())[:MOST_INPUTS]
        ),
    ]
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(title)}</title><style>{STYLE}</style>"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</html>\n"
    )


def model_card(
    evaluation: Mapping[str, Any], description: Mapping[str, Any], facts: Mapping[str, str], unit: str
) -> str:
    """What somebody who did not make the model should know before using it, in Markdown.

    Parameters
    ----------
    evaluation : mapping
        What `training.pipeline.evaluate` returns.
    description : mapping
        The data set's `dataset.json`.
    facts : mapping
        Lines of the head, by name.
    unit : str
        Of the label.
    """
    primary, metrics = evaluation["primary"], evaluation["metrics"]
    worst = sorted(
        (row for row in (*evaluation["slices"], *evaluation["groups"]) if row[primary] is not None),
        key=lambda row: -row[primary],
    )[:3]
    unmeasured = [f"{row['slice']} ({row['note']})" for row in evaluation["slices"] if row[primary] is None]
    window = description["window"]
    lines = [
        f"# {description['model']}",
        *(f"- {name}: {value}" for name, value in facts.items()),
        f"- Data: {description['row_count']} rows of {window['start'][:10]} to {window['end'][:10]}, as known at "
        f"{description['as_of']}; data set {description['hash'][:12]}, seed {description['seed']}",
        *(f"- Rows: {line}" for line in seen_lines(evaluation)),
        f"- Inputs: {len(description['inputs'])} of the feature service {description['feature_service']}",
        f"\n## How good it is\n\nTest {primary} {metrics[f'test_{primary}']:.3f}, on rows later than all that the "
        f"judged models were made from; naive baselines: "
        + ", ".join(f"{name} {values[f'test_{primary}']:.3f}" for name, values in evaluation["baselines"].items())
        + ".",
        *(f"\n{line}" for line in interval_lines(evaluation["interval"], unit)),
        *(f"\n{line}" for line in business_lines(evaluation["business"], unit)),
        "\n## Where it is worst\n",
        *(f"- {row['slice']}: {primary} {row[primary]:.3f} on {row['rows']} rows" for row in worst),
        *(["- not measured: " + ", ".join(unmeasured)] if unmeasured else []),
        f"\n## Gates\n\n{gates_table(evaluation['gates'])}",
    ]
    return "\n".join(lines) + "\n"


def _coverage_bars(covered: Iterable[Mapping[str, Any]]) -> list[str]:
    rows = [(part["part"], part["coverage"], f"{part['coverage']:.1%} of {part['rows']} rows") for part in covered]
    return ["<h2>Share of the test rows in the 80 % interval, by part</h2>", _bars(rows)] if rows else []


def _gates(gates: Iterable[Mapping[str, Any]]) -> str:
    rows = [
        f"<tr><td>{escape(gate['name'])}<td class={'passed' if gate['passed'] else 'failed'}>"
        f"{'passed' if gate['passed'] else 'failed'}<td>{escape(gate['reason'])}"
        for gate in gates
    ]
    return f"<table><tr><th>gate<th>verdict<th>reason{''.join(rows)}</table>"


def _metrics(evaluation: Mapping[str, Any]) -> str:
    header = "".join(f"<th>{part} ({count} rows)" for part, count in evaluation["rows"].items())
    kinds = [name.removeprefix("test_") for name in evaluation["metrics"] if name.startswith("test_")]
    rows = [
        f"<tr><td>{escape(who)}<td>{escape(kind)}"
        + "".join(
            f"<td>{values[f'{part}_{kind}']:.4g}" if f"{part}_{kind}" in values else "<td>"
            for part in evaluation["rows"]
        )
        for who, values in {"model": evaluation["metrics"], **evaluation["baselines"]}.items()
        for kind in kinds
        if f"test_{kind}" in values
    ]
    return f"<table><tr><th><th>metric{header}{''.join(rows)}</table>"


def _bars(rows: Iterable[tuple[str, float, str]]) -> str:
    listed = list(rows)
    most = max((value for _, value, _ in listed), default=0.0) or 1.0
    drawn = [
        f"<tr><td>{escape(name)}<td class=chart><div class=bar style='width:{max(0.0, value / most):.1%}'></div>"
        f"<td>{escape(text)}"
        for name, value, text in listed
    ]
    return f"<table>{''.join(drawn)}</table>"
