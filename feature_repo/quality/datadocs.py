"""Validation results as pages for people: Great Expectations' Data Docs, rendered without anything from the network.

A page is one validation, rendered when it is made; the index is made from the pages that are there. Only the newest
pages of a suite stay, so neither the folder nor the time to write a page grows.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config import Settings
from feature_repo.files import write_atomically
from feature_repo.quality.results import ValidationReport

if TYPE_CHECKING:
    from great_expectations.core import ExpectationValidationResult
    from jinja2 import Template

logger = logging.getLogger(__name__)

KEPT_PAGES = 50
TEMPLATES = Path(__file__).resolve().parent / "templates"


def docs_folder(settings: Settings) -> Path:
    """Where the pages are."""
    return settings.reports / "quality" / "docs"


def docs_index(settings: Settings) -> Path:
    """The page to begin with."""
    return docs_folder(settings) / "index.html"


def write_page(
    report: ValidationReport, results: Sequence[ExpectationValidationResult], settings: Settings
) -> Path | None:
    """Render a validation, bring the index up to date, and forget old pages.

    Parameters
    ----------
    report : ValidationReport
    results : sequence of ExpectationValidationResult
        As `run_suite` hands them out.
    settings : Settings

    Returns
    -------
    Path or None
        None when the page could not be written: the log says why, and the report is kept as JSON all the same.
    """
    path = docs_folder(settings) / report.suite / f"{report.window_slug}.html"
    try:
        write_atomically(path, f"<!-- {json.dumps(_summary(report))} -->\n{_render(report, results)}")
        _forget_old(path.parent)
        write_atomically(docs_index(settings), _render_index(docs_folder(settings)))
    except Exception:  # a page that cannot be drawn is no reason to stop the orders of an hour
        logger.exception("the results of %s for %s could not be rendered as %s", report.suite, report.window_slug, path)
        return None
    logger.info("validation results of %s: %s", report.suite, path)
    return path


def _summary(report: ValidationReport) -> dict[str, Any]:
    # Within an HTML comment: `--` would end it.
    return {
        "window": report.window_slug,
        "verdict": report.verdict,
        "rows": report.row_count,
        "rejected": report.rejected_count,
        "failed": [result.rule for result in report.failures],
    }


def _render(report: ValidationReport, results: Sequence[ExpectationValidationResult]) -> str:
    from great_expectations.render.renderer.page_renderer import ValidationResultsPageRenderer

    content = ValidationResultsPageRenderer().render(_joined(report, results))
    index = "../" * (report.suite.count("/") + 1) + "index.html"
    return str(_view().render(content, "data_docs.j2", report=report, verdict=report.verdict, index=index))


@functools.cache
def _view() -> Any:
    """Templates are compiled when first used, which takes longer than to fill them in: once per process."""
    from great_expectations.render.view.view import DefaultJinjaPageView

    return DefaultJinjaPageView(custom_views_directory=str(TEMPLATES))


def _joined(report: ValidationReport, results: Sequence[ExpectationValidationResult]) -> Any:
    """The results of all suites of a validation as those of one."""
    from great_expectations.core import ExpectationSuiteValidationResult

    for result in results:
        result.result = _as_text(result.result)
    passed = sum(bool(result.success) for result in results)
    statistics = {
        "evaluated_expectations": len(results),
        "successful_expectations": passed,
        "unsuccessful_expectations": len(results) - passed,
        "success_percent": 100 * passed / len(results) if results else 100.0,
    }
    return ExpectationSuiteValidationResult(
        success=not report.stopped,
        results=list(results),
        suite_name=report.suite,
        statistics=statistics,
        suite_parameters={},
        meta={"run_id": {"run_name": report.window_slug, "run_time": None}},
    )


def _as_text(value: Any) -> Any:
    """A result whose texts are no markup: Great Expectations puts values into its tables as they are."""
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, dict):
        return {key: _as_text(one) for key, one in value.items()}
    return [_as_text(one) for one in value] if isinstance(value, list | tuple) else value


def _render_index(folder: Path) -> str:
    suites: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(folder.glob("**/*_*.html"), reverse=True):
        if page := _read_summary(path):
            page["link"] = path.relative_to(folder).as_posix()
            suites.setdefault(path.parent.relative_to(folder).as_posix(), []).append(page)
    return _index_template().render(suites=dict(sorted(suites.items(), reverse=True)))


@functools.cache
def _index_template() -> Template:
    from jinja2 import Environment, FileSystemLoader

    return Environment(loader=FileSystemLoader(TEMPLATES), autoescape=False).get_template("index.j2")


def _read_summary(path: Path) -> dict[str, Any] | None:
    with path.open() as file:
        first = file.readline()
    try:
        return dict(json.loads(first.removeprefix("<!-- ").removesuffix(" -->\n")))
    except ValueError:
        return None


def _forget_old(folder: Path) -> None:
    newest_last = sorted(folder.glob("*_*.html"), key=lambda path: (path.stat().st_mtime, path.name))
    for path in newest_last[:-KEPT_PAGES]:
        path.unlink(missing_ok=True)
