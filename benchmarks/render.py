"""Tables and plots of the kept results, for docs/benchmarks.md: `python -m benchmarks.render`.

The page's words are written by hand; what stands between `<!-- NAME -->` and `<!-- end -->` is made here from
`benchmarks/results/NAME.json`, so that no figure is ever typed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness import RESULTS

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, IMAGES = DOCS / "benchmarks.md", DOCS / "images"
SECTION = re.compile(r"<!-- (?P<name>[a-z_]+) -->\n.*?<!-- end -->", re.DOTALL)


def rendered(page: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page with every section made anew.

    Raises
    ------
    KeyError
        A section has no result; the message names the command that makes it.
    """

    def section(found: re.Match[str]) -> str:
        name = found["name"]
        if name not in results:
            raise KeyError(f"docs/benchmarks.md shows {name!r}, of which there is no result: make bench NAME={name}")
        picture = f"![{name}: seconds and memory](images/benchmark_{name}.svg)"
        return f"<!-- {name} -->\n{table(results[name])}\n\n{picture}\n\n{made_on(results[name])}\n<!-- end -->"

    return SECTION.sub(section, page)


def table(result: Mapping[str, Any]) -> str:
    """One row per size and contender, with its ratio to the anchor, in Markdown."""
    base = {row["size"]: row for row in result["measured"] if row["contender"] == result["anchor"]}
    facts = list(dict.fromkeys(name for row in result["measured"] for name in row["facts"]))
    header = ["size", "contender", "seconds", "ratio", "peak MiB", "ratio", *facts]
    lines = [header, ["---", "---", *["---:"] * (len(header) - 2)]]
    for row in result["measured"]:
        anchor = base.get(row["size"])
        lines.append(
            [
                row["size"],
                row["contender"],
                f"{row['seconds']:.2f}",
                _ratio(row, anchor, "seconds"),
                f"{row['peak_mebibytes']:.0f}",
                _ratio(row, anchor, "peak_mebibytes"),
                *(_fact(row["facts"].get(name)) for name in facts),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def made_on(result: Mapping[str, Any]) -> str:
    """The versions and the machine of a result, in a line."""
    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    machine = result["machine"]
    runs = max(row["runs"] for row in result["measured"])
    return (
        f"Ratios are to *{result['anchor']}*. Medians of {runs} run{'s' * (runs > 1)} on {machine['cores']} cores "
        f"({machine['architecture']}); {versions}."
    )


def plot(result: Mapping[str, Any], path: Path) -> None:
    """Seconds and peak memory of every contender at every size, on logarithmic axes, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    # The same figures give the same bytes.
    matplotlib.rcParams.update({"svg.hashsalt": "delivery-eta", "font.size": 9})
    from matplotlib import pyplot

    rows = result["measured"][::-1]
    labels = [f"{row['size']}: {row['contender']}" for row in rows]
    colours = ["#1f6f8b" if row["contender"] == result["anchor"] else "#e07a3f" for row in rows]
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 0.8 + 0.28 * len(rows)), sharey=True)
    for axis, key, unit in zip(axes, ("seconds", "peak_mebibytes"), ("seconds", "peak MiB"), strict=True):
        axis.barh(labels, [row[key] for row in rows], color=colours)
        axis.set_xscale("log")
        axis.set_xlabel(unit)
        axis.grid(axis="x", alpha=0.3)
        axis.bar_label(axis.containers[0], labels=[f"{row[key]:.3g}" for row in rows], padding=3, fontsize=8)
        axis.margins(x=0.15)
    figure.tight_layout()
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _ratio(row: Mapping[str, Any], anchor: Mapping[str, Any] | None, key: str) -> str:
    return f"{row[key] / anchor[key]:.2f}" if anchor and anchor[key] else "-"


def _fact(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    """Make the page and its plots anew."""
    results = {path.stem: json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))}
    PAGE.write_text(rendered(PAGE.read_text(), results))
    for found in SECTION.finditer(PAGE.read_text()):
        plot(results[found["name"]], IMAGES / f"benchmark_{found['name']}.svg")
    print(f"written: docs/benchmarks.md, docs/images/ ({len(results)} results)")


if __name__ == "__main__":
    main()
