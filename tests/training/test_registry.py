"""Moving the champion: by hand, back, and by two at once."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import threading
from pathlib import Path

import pytest

from config import Settings
from tests.conftest import free_port
from tests.training.conftest import AS_OF, description
from training import __main__ as command_line
from training.errors import (
    ArtifactsGone,
    ChampionMoved,
    ExperimentDeleted,
    NothingToRollBack,
    RegistryRefuses,
    RegistryUnavailable,
    UnknownVersion,
    VersionInUse,
)
from training.lineage import lineage_tags, render_tree
from training.registry import ModelRegistry

pytestmark = pytest.mark.usefixtures("mlflow_ready")


@pytest.fixture
def registry(settings):
    return ModelRegistry(settings, "delivery_time")


@pytest.fixture
def three(registry, tmp_path):
    """Three versions, none of them champion."""
    described = description() | {"hash": "f" * 64, "row_count": 7}
    path = tmp_path / "dataset.json"
    path.write_text(json.dumps(described))
    for number in "123":
        run_id = registry.start_run(f"run {number}", {}, {})
        registry.log_files(run_id, path)
        registry.create_version(run_id, lineage_tags(described, f"key {number}"), [])
    return registry


def versions(registry) -> dict[str, tuple[str, ...]]:
    return {version.version: version.aliases for version in registry.versions()}


def test_promotion_moves_the_alias_and_keeps_who_when_why(three):
    three.promote("1", AS_OF, "ada", "first")
    three.promote("3", AS_OF, "bob", "better")
    assert versions(three) == {"3": ("champion",), "2": (), "1": ()}
    assert [(move.before, move.after, move.who, move.why, move.action) for move in three.history()] == [
        (None, "1", "ada", "first", "promote"),
        ("1", "3", "bob", "better", "promote"),
    ]
    assert three.history()[0].at == "2026-05-01T00:00:00+00:00"


def test_rollback_goes_back_one_champion_at_a_time(three):
    for number in "123":
        three.promote(number, AS_OF, "ada", "up")
    assert three.rollback(AS_OF, "bob", "bad").after == "2"
    assert three.rollback(AS_OF, "bob", "still bad").after == "1"
    with pytest.raises(NothingToRollBack, match="version 1 has no predecessor to go back to"):
        three.rollback(AS_OF, "bob", "again")
    assert three.champion().version == "1"
    assert [move.action for move in three.history()] == ["promote"] * 3 + ["rollback"] * 2


def test_a_rollback_passes_by_versions_that_were_rejected(three):
    for number in "123":
        three.promote(number, AS_OF, "ada", "up")
    three.reject("2", AS_OF, "bob", "wrong zone names")
    assert three.rollback(AS_OF, "bob", "bad").after == "1"
    assert three.version("2").tags["rejected"] == "2026-05-01T00:00:00+00:00 by bob: wrong zone names"
    three.promote("2", AS_OF, "ada", "it was right after all")
    assert "rejected" not in three.version("2").tags


def test_with_every_predecessor_rejected_a_rollback_says_so_and_moves_nothing(three):
    three.promote("1", AS_OF, "ada", "up")
    three.promote("2", AS_OF, "ada", "up")
    three.reject("1", AS_OF, "bob", "bad")
    with pytest.raises(NothingToRollBack, match="those before it were rejected"):
        three.rollback(AS_OF, "bob", "worse")
    assert three.champion().version == "2"


def test_the_champion_can_neither_be_rejected_nor_challenge_itself(three):
    three.promote("1", AS_OF, "ada", "first")
    with pytest.raises(VersionInUse, match="version 1 is the champion, it serves now: roll back or promote another"):
        three.reject("1", AS_OF, "bob", "bad")
    with pytest.raises(VersionInUse, match="cannot challenge itself"):
        three.challenge("1", AS_OF, "bob", "odd")
    assert versions(three)["1"] == ("champion",)


def test_a_challenger_stands_beside_the_champion_until_promoted_or_rejected(three):
    three.promote("1", AS_OF, "ada", "first")
    three.challenge("2", AS_OF, "ada", "shadow")
    assert three.challenge("3", AS_OF, "ada", "shadow").before == "2"
    assert versions(three) == {"3": ("challenger",), "2": (), "1": ("champion",)}
    three.reject("3", AS_OF, "bob", "slow")
    three.challenge("2", AS_OF, "ada", "again")
    three.promote("2", AS_OF, "ada", "won")
    assert versions(three) == {"3": (), "2": ("champion",), "1": ()}
    assert three.rollback(AS_OF, "bob", "bad").after == "1"


def test_every_decision_is_a_line_of_the_log_and_a_tag(three):
    three.promote("1", AS_OF, "ada", "first")
    three.challenge("2", AS_OF, "ada", "shadow")
    three.reject("2", AS_OF, "bob", "slow")
    lines = [json.loads(line) for line in three.log_path.read_text().splitlines()]
    assert [(line["action"], line["before"], line["after"], line["who"], line["why"]) for line in lines] == [
        ("promote", None, "1", "ada", "first"),
        ("challenge", None, "2", "ada", "shadow"),
        ("reject", "2", None, "bob", "slow"),
    ]
    tagged = [(move.number, move.action, move.before, move.after) for move in three.history()]
    assert tagged == [(line["number"], line["action"], line["before"], line["after"]) for line in lines]


def test_many_at_once_leave_one_champion_and_no_decision_is_lost(three, settings):
    def promote(number: str) -> None:
        ModelRegistry(settings, "delivery_time").promote(number, AS_OF, f"person {number}", "at once")

    threads = [threading.Thread(target=promote, args=(number,)) for number in "123123"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = three.history()
    assert [move.before for move in history[1:]] == [move.after for move in history[:-1]]
    assert three.champion().version == history[-1].after
    assert len(three.log_path.read_text().splitlines()) == len(history)


def test_rollback_without_a_champion_has_a_message(registry):
    with pytest.raises(NothingToRollBack, match="has no champion: train one"):
        registry.rollback(AS_OF, "bob", "")


def test_promoting_the_champion_again_changes_nothing(three):
    three.promote("1", AS_OF, "ada", "first")
    three.promote("1", AS_OF, "ada", "twice")
    assert len(three.history()) == 1


def test_promoting_what_does_not_exist_lists_what_does(three):
    with pytest.raises(UnknownVersion, match="has no version 9; registered versions: 3, 2, 1"):
        three.promote("9", AS_OF, "ada", "")


def test_a_promotion_that_expects_another_champion_is_refused(three):
    three.promote("1", AS_OF, "ada", "first", expected=None)
    with pytest.raises(ChampionMoved, match="the champion is version 1, not none as expected"):
        three.promote("2", AS_OF, "bob", "", expected=None)
    assert three.champion().version == "1"


def test_of_two_at_once_one_wins_and_the_other_is_told(three, settings):
    three.promote("1", AS_OF, "ada", "first")
    outcomes: list[str] = []

    def promote(number: str) -> None:
        try:
            ModelRegistry(settings, "delivery_time").promote(number, AS_OF, number, "", expected="1")
            outcomes.append(number)
        except ChampionMoved:
            outcomes.append("refused")

    threads = [threading.Thread(target=promote, args=(number,)) for number in "23"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[1] == "refused"
    assert three.champion().version == sorted(outcomes)[0]
    assert len(three.history()) == 2


def test_a_promotion_killed_before_the_alias_moved_does_not_confuse_a_rollback(three, monkeypatch):
    three.promote("1", AS_OF, "ada", "first")
    three.promote("2", AS_OF, "ada", "second")

    def killed(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(three._client, "set_registered_model_alias", killed)
        with pytest.raises(KeyboardInterrupt):
            three.promote("3", AS_OF, "ada", "third")
    assert three.champion().version == "2"
    assert three.rollback(AS_OF, "bob", "").after == "1"


def test_lineage_is_a_tree_down_to_the_order_partitions(three):
    three.promote("1", AS_OF, "ada", "first")
    tree = render_tree(three.lineage("1"))
    assert tree.splitlines()[0] == "delivery_time version 1 (champion)"
    assert "data set " + "f" * 64 + ", 7 rows" in tree
    assert tree.splitlines()[-1].strip() == "└── lake/orders/day=2026-04-01/rows.parquet  aaaaaaaaaaaa"


def test_a_dead_server_is_reported_by_every_call_after_few_retries(settings):
    nowhere = f"http://127.0.0.1:{free_port()}"
    dead = ModelRegistry(Settings(mlflow_tracking_uri_override=nowhere, data_dir=settings.data_dir), "delivery_time")
    for call in (dead.check, dead.champion, dead.history):
        with pytest.raises(RegistryUnavailable, match=r"does not answer .*Nothing was registered"):
            call()
    assert int(os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"]) == 1


def test_a_deleted_experiment_says_so_and_how_to_restore_it(three, capsys):
    three._client.delete_experiment(three._experiment())
    with pytest.raises(
        ExperimentDeleted, match=r"experiment 'delivery_time' \(id 1\) .* was deleted.*restore --exp.* 1;"
    ):
        three.start_run("again", {}, {})
    assert not ExperimentDeleted.transient
    three._client.restore_experiment("1")
    assert three.start_run("again", {}, {})


def test_a_deleted_run_says_so_and_how_to_restore_it(three):
    run_id = three.version("1").run_id
    three._client.delete_run(run_id)
    for call in (lambda: three.log_parameters(run_id, {"a": 1}), lambda: three.end_run(run_id)):
        with pytest.raises(
            RegistryRefuses, match=rf"run {run_id} must be in the 'active' state.*runs restore --run-id"
        ):
            call()
    assert three.champion() is None


def test_files_that_are_gone_are_named_with_their_version_and_run(three, settings, tmp_path):
    version = three.version("2")
    shutil.rmtree(settings.mlflow_dir / "artifacts")
    for call in (lambda: three.lineage("2"), lambda: three.fetch_bundle(version, tmp_path)):
        with pytest.raises(ArtifactsGone, match=rf"delivery_time version 2: .*{version.run_id}.*promote VERSION"):
            call()
    assert not list(tmp_path.glob("delivery_time*"))


def test_a_run_that_was_purged_is_named_with_its_version(three, settings):
    run_id, database = three.version("3").run_id, settings.mlflow_tracking_uri.removeprefix("sqlite:///")
    with sqlite3.connect(database) as connection:
        for table in ("params", "tags", "metrics", "latest_metrics", "runs"):
            connection.execute(f"DELETE FROM {table} WHERE run_uuid = ?", [run_id])
    with pytest.raises(ArtifactsGone, match=rf"delivery_time version 3: .*Run with id={run_id} not found"):
        three.lineage("3")
    assert not three.run_exists(run_id)


@pytest.mark.parametrize(
    ("damage", "kind", "said"),
    [
        (
            "UPDATE alembic_version SET version_num = 'ffffffffffff'",
            RegistryRefuses,
            "made by another MLflow .*newer one",
        ),
        (None, RegistryUnavailable, "file is not a database"),
    ],
)
def test_a_database_that_this_mlflow_cannot_read_says_why(settings, damage, kind, said):
    path = Path(settings.mlflow_tracking_uri.removeprefix("sqlite:///"))
    if damage is None:
        path.write_bytes(b"no database at all" * 100)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute(damage)
    with pytest.raises(kind, match=said):
        ModelRegistry(settings, "delivery_time").versions()


def test_the_command_line_moves_and_lists(three, capsys):
    assert command_line.main(["models"]) == 0
    assert command_line.main(["promote", "1", "--why", "try it"]) == 0
    assert command_line.main(["promote", "2"]) == 0
    assert command_line.main(["rollback", "--why", "bad"]) == 0
    assert command_line.main(["challenge", "3", "--why", "shadow"]) == 0
    assert command_line.main(["reject", "3", "--why", "slow"]) == 0
    assert command_line.main(["reject", "1"]) == 1
    assert command_line.main(["lineage", "2"]) == 0
    assert command_line.main(["models"]) == 0
    output = capsys.readouterr().out
    assert "version 1 became the champion (before: none); " in output
    assert ": try it" in output
    assert "rolled back: version 1 is the champion again (before: 2); " in output
    assert "version 3 became the challenger (before: none); " in output
    assert "version 3 was rejected, no rollback goes back to it; " in output
    listed = {line.split()[0]: line.split()[1] for line in output.rpartition("version  state")[2].splitlines()[1:4]}
    assert listed == {"3": "rejected", "2": "-", "1": "champion"}
    assert "training run" in output


def test_the_command_line_reports_an_error_in_one_line(three, capsys):
    assert command_line.main(["promote", "9"]) == 1
    assert capsys.readouterr().err.startswith("UnknownVersion: delivery_time has no version 9")
    assert command_line.main(["run", "--threshold", "beauty=1"]) == 1
    assert "has no gates ['beauty']" in capsys.readouterr().err


def test_a_model_without_versions_says_how_to_get_one(registry, capsys):
    assert command_line.main(["models"]) == 0
    assert "no versions yet: train one (make train MODEL=delivery_time)" in capsys.readouterr().out


def test_the_command_line_says_why_there_is_no_such_model(settings, monkeypatch, capsys):
    skipped = {"model": "customer_churn", "as_of": "2026-05-01", "status": "skipped", "reason": "it needs customer_id"}
    monkeypatch.setattr("training.pipeline.run", lambda *_: skipped)
    assert command_line.main(["run", "--model", "customer_churn"]) == 4
    assert "customer_churn as of 2026-05-01: skipped\n  it needs customer_id" in capsys.readouterr().out
