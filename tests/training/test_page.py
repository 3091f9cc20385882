"""The report that people read: complete, and nothing in it can break the page."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from tests.training.conftest import AS_OF, PEAK, TRAILING_MEAN, description
from training import pipeline
from training.page import html_report
from training.pictures import pictures
from training.split import split_by_time

pytestmark = pytest.mark.usefixtures("mlflow_ready")


class Text(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)


def test_what_is_drawn_is_what_the_predictions_say(stored, spec):
    dataset = stored()
    split = split_by_time(dataset.rows(), spec)
    peak, trailing = dataset.inputs.index(PEAK), dataset.inputs.index(TRAILING_MEAN)
    drawn = pictures(lambda rows: np.nan_to_num(rows[:, trailing], nan=33.0).astype(float), split, dataset, spec)
    assert sum(drawn["residuals"]["counts"]) == pytest.approx(0.98 * split.test.height, abs=3)
    assert len(drawn["residuals"]["edges"]) == len(drawn["residuals"]["counts"]) + 1
    assert sum(row["rows"] for row in drawn["calibration"]) == split.test.height
    told = [row["predicted"] for row in drawn["calibration"]]
    assert told == sorted(told)
    assert next(iter(drawn["importance"])) == TRAILING_MEAN
    assert drawn["importance"][dataset.inputs[peak]] == 0.0


def test_the_page_shows_every_gate_slice_and_input_and_escapes_names(stored, settings, spec):
    dataset = stored()
    pipeline.train(AS_OF, settings, spec)
    evaluation = pipeline.evaluate(AS_OF, settings, spec)
    odd = evaluation | {"slices": [evaluation["slices"][0] | {"slice": "<script>alert(1)</script>"}]}
    page = Text(html_report(odd, "a <title>", "minutes"))
    assert "script" not in page.tags
    assert {gate["name"] for gate in evaluation["gates"]} <= set(page.words)
    assert set(dataset.inputs) <= set(page.words)
    assert page.words.count("passed") == len(evaluation["gates"])
    (card,) = settings.datasets.glob("*/candidates/*/evaluations/*/model_card.md")
    text = card.read_text()
    assert f"data set {dataset.hash[:12]}, seed {description()['seed']}" in text
    assert "not measured: new restaurant (fewer than 50 rows)" in text
