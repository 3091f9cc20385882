"""What a store has to hold before a bundle is adopted, against a real Redis."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import redis

from serving import live_keys
from serving.bundle import Bundle, BundleDocument
from serving.errors import StoreMismatch
from serving.feast_bytes import Undecodable, key_prefix, key_value, split_key
from tests.conftest import free_port
from tests.serving.conftest import BundleMaker
from tests.waiting import GENEROUS_SECONDS


def require(url: str, document: BundleDocument) -> str | None:
    return live_keys.require(url, document, GENEROUS_SECONDS)


@pytest.fixture
def document(bundle_dir: Path) -> BundleDocument:
    return Bundle.load(bundle_dir).document


def test_a_store_with_a_row_of_each_view_is_one_that_the_bundle_fits(store: str, document: BundleDocument):
    redis.Redis.from_url(store).mset({"somebody": "else", b"\xff" * 40: "too"})

    assert require(store, document) is None


def test_a_store_of_another_project_is_named(store: str, make_bundle: BundleMaker):
    for project in ("elsewhere", "eta"):  # of which the last is how the other one ends
        with pytest.raises(StoreMismatch, match=f"nothing of the Feast project {project}, only of delivery_eta: point"):
            require(store, Bundle.load(make_bundle(project=project)).document)


def test_a_view_of_which_no_row_is_stored_is_named_unless_training_lacked_it_too(
    store: str, document: BundleDocument, make_bundle: BundleMaker, bundle_dir: Path
):
    client = redis.Redis.from_url(store)
    (key,) = client.scan_iter(match=b"*driver_id*")
    client.hdel(key, "_ts:driver_stats")
    with pytest.raises(StoreMismatch, match="Redis holds no row of driver_stats, which the model was trained with"):
        require(store, document)

    inputs = [dict(each) for each in json.loads((bundle_dir / "bundle.json").read_text())["inputs"]]
    inputs[3]["null_rate"] = 0.95
    assert require(store, Bundle.load(make_bundle(inputs=inputs)).document) is None


def test_a_store_that_is_empty_or_does_not_answer_says_nothing_against_a_bundle(
    redis_url: str, document: BundleDocument
):
    assert require(redis_url, document) == "Redis holds no features"
    assert (require(f"redis://127.0.0.1:{free_port()}/0", document) or "").startswith("Redis does not answer (")


def test_a_store_that_is_too_large_to_look_through_says_nothing_either(
    store: str, make_bundle: BundleMaker, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(live_keys, "LOOK_SECONDS", 0.0)

    assert require(store, Bundle.load(make_bundle(project="elsewhere")).document) == "Redis holds no features"


@pytest.mark.parametrize("names", [("a_id",), ("a_id", "b_id")])
def test_a_key_is_split_into_what_it_was_made_of(names: tuple[str, ...]):
    key = key_prefix(names) + b"".join(key_value(f"of {name}") for name in names) + b"project"

    assert split_key(key) == (names, "project")
    for cut in range(len(key) - len("project")):
        with pytest.raises(Undecodable):
            split_key(key[:cut])
