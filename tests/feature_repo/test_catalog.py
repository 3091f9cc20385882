"""What the catalog says about the definitions."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta

import pytest

from config.settings import ROOT
from feature_repo import catalog, definitions
from feature_repo.request_fields import REQUEST_FIELDS
from feature_repo.transforms.views import TRANSFORMS


def test_batch_views_come_in_the_order_of_definition_with_their_fields():
    views = catalog.batch_views()
    assert [view.name for view in views] == [view.name for view in definitions.BATCH_VIEWS]
    for view in views:
        assert (view.join_key, view.step) == (TRANSFORMS[view.name].key, TRANSFORMS[view.name].step)
        assert [field.name for field in view.fields] == list(TRANSFORMS[view.name].features)
    driver = catalog.batch_view("driver_stats")
    assert (driver.join_key, driver.ttl) == ("driver_id", timedelta(hours=26))
    rate = driver.field("on_time_rate_28d")
    assert (rate.dtype, rate.unit, rate.minimum, rate.maximum) == ("Float64", "share", 0.0, 1.0)
    assert catalog.batch_view("customer_stats").field("segment").allowed == ("new", "occasional", "regular", "vip")


def test_inputs_of_the_delivery_model_are_numbers_with_unique_names():
    inputs = catalog.model_inputs("delivery_time_v1")
    names = [one.name for one in inputs]
    assert len(names) == len(set(names))
    assert names[0] == "restaurant_stats__order_count_7d"
    assert [name for name in names if "__" not in name] == names[-len(REQUEST_FIELDS) :] == [*REQUEST_FIELDS]
    assert {one.dtype for one in inputs} == {"Int64", "Float64"}
    on_demand = [one.feature for one in inputs if one.source == "on_demand"]
    assert on_demand == [field.name for field in definitions.ON_DEMAND_FIELDS["request_features"]]
    assert {one.view for one in inputs if one.source == "request"} == {None}


def test_inputs_of_the_churn_model_need_no_request():
    inputs = catalog.model_inputs("customer_churn_v1")
    assert {one.source for one in inputs} == {"view"}
    assert "customer_stats__segment" in [one.name for one in inputs]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: catalog.model_inputs("nothing_v1"), "no feature service 'nothing_v1'; there are"),
        (lambda: catalog.batch_view("nothing"), "no batch view 'nothing'; there are"),
        (lambda: catalog.batch_view("driver_stats").field("nothing"), "driver_stats has no field 'nothing', but"),
    ],
)
def test_a_name_that_is_not_defined_is_told_with_those_that_are(ask, message):
    with pytest.raises(KeyError, match=message):
        ask()


def test_the_hash_is_that_of_every_process():
    program = "from feature_repo.catalog import definitions_hash; print(definitions_hash())"
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == catalog.definitions_hash()


def test_the_hash_changes_with_a_field_a_service_and_a_transform(monkeypatch, tmp_path):
    first = catalog.definitions_hash()

    def again() -> str:
        catalog.definitions_hash.cache_clear()
        return catalog.definitions_hash()

    with monkeypatch.context() as changed:
        changed.setitem(definitions.restaurant_stats.features[0].tags, "maximum", "99")
        assert again() != first
    with monkeypatch.context() as changed:
        changed.setattr(definitions, "SERVICES", definitions.SERVICES[:1])
        assert again() != first
    with monkeypatch.context() as changed:
        (tmp_path / "zone_stats.py").write_text("# another one")
        changed.setattr(catalog, "TRANSFORMS_FOLDER", tmp_path)
        assert again() != first
    assert again() == first


def test_importing_the_catalog_does_not_import_feast():
    program = "import sys, feature_repo.catalog, feature_repo.pipeline; print('feast' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
