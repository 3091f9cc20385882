"""docs/features.md shows how to add a feature; following it literally adds one, with the right values."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from config import Settings
from config.settings import ROOT
from feature_repo import views
from feature_repo.transforms import compute, facts, restaurant_stats
from feature_repo.transforms.spec import Measure
from feature_repo.transforms.views import TRANSFORMS
from feature_repo.window import DAY
from tests.feature_repo.transforms import histories, oracle


@pytest.fixture
def steps() -> list[str]:
    text = (ROOT / "docs" / "features.md").read_text()
    section = text.split("## Adding a feature")[1].split("\n## ")[0]
    return [block.strip().rstrip(",") for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL)]


def test_the_steps_of_the_docs_add_a_feature(steps, tmp_path, monkeypatch):
    measure, expression, field = steps
    name, value = measure.split(" = ", 1)
    namespace = {**vars(restaurant_stats), name: eval(value, {"Measure": Measure, "facts": facts})}
    added = eval("{" + expression + "}", namespace)
    old = TRANSFORMS["restaurant_stats"]
    for view in set(TRANSFORMS) - {"restaurant_stats"}:
        monkeypatch.delitem(TRANSFORMS, view)
    monkeypatch.setitem(TRANSFORMS, "restaurant_stats", replace(old, features={**old.features, **added}))

    settings = Settings(data_dir=tmp_path)
    versions = histories.random_history(seed=3, days=15)
    window = histories.write_lake(versions, settings)
    tiles = compute.compute_tiles(window, settings)
    rows = compute.compute_rows(window, tiles, settings)["restaurant_stats"]
    known = oracle.facts_of(versions, window.end)
    assert eval(field, vars(views)).name in rows.columns
    assert rows["cancelled_count_7d"].max() > 0
    instants = {(row["restaurant_id"], row["event_timestamp"]) for row in rows.to_dicts()}
    assert instants == oracle.row_instants("restaurant_stats", window.start, window.end, known)
    for row in rows.to_dicts():
        span = (row["event_timestamp"] - 7 * DAY, row["event_timestamp"])
        mine = [fact for fact in known if fact.version["restaurant_id"] == row["restaurant_id"]]
        cancelled = [fact for fact in mine if fact.kind == "cancelled" and span[0] <= fact.known_at < span[1]]
        assert row["cancelled_count_7d"] == len(cancelled)
