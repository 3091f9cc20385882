"""The stores work in a Feast project that has nothing else of this one: its files are copied there and used."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from config.settings import ROOT
from tests.feature_repo.stores.helpers import NOON, history, write

LIFTED = (
    "asof", "declared", "history", "join", "questions", "retrieval", "writing",
    "parquet", "latest", "encoding", "materialize", "redis_online", "redis_write",
    "redis_client", "redis_errors", "provider",
)  # fmt: skip
"""The files that docs/stores.md says to copy."""

CONFIGURATION = """
project: elsewhere
provider: feature_repo.stores.provider.CheckedProvider
registry: registry.db
entity_key_serialization_version: 3
offline_store: {type: feature_repo.stores.asof.AsOfOfflineStore, knowledge_cutoff: true}
online_store: {type: feature_repo.stores.redis_online.LatestWinsRedisOnlineStore, connection_string: 'REDIS'}
batch_engine: {type: feature_repo.stores.materialize.LatestRowsEngine}
"""
DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource, ValueType
from feast.types import Int64, String

shop = Entity(name="shop", join_keys=["restaurant_id"], value_type=ValueType.STRING)
stats = FeatureView(
    name="stats", entities=[shop], ttl=timedelta(days=36500),
    schema=[Field(name="restaurant_id", dtype=String), Field(name="orders", dtype=Int64)],
    source=FileSource(
        name="rows", path="rows.parquet", timestamp_field="event_timestamp", created_timestamp_column="created"
    ),
)
"""
QUESTIONS = """
import sys, pandas as pd
from feast import FeatureStore
store = FeatureStore(".")
asked = pd.DataFrame({"restaurant_id": ["a", "a", "b"], "event_timestamp": pd.to_datetime(
    ["2026-05-01T12:05Z", "2026-05-01T12:59Z", "2026-05-01T11:59Z"])})
print("historical", store.get_historical_features(asked, ["stats:orders"]).to_df()["orders"].tolist())
rows = [{"restaurant_id": "a"}, {"restaurant_id": "b"}]
print("online", store.get_online_features(["stats:orders"], rows).to_dict()["orders"])
print("own", sorted(name for name in sys.modules if name.split(".")[0] in ("config", "feature_repo")))
"""


def test_the_stores_work_in_another_project(tmp_path: Path, redis_url: str) -> None:
    package = tmp_path / "feature_repo" / "stores"
    package.mkdir(parents=True)
    for directory in (package, package.parent):
        (directory / "__init__.py").touch()
    for name in LIFTED:
        shutil.copy(ROOT / "feature_repo" / "stores" / f"{name}.py", package)
    address = redis_url.removeprefix("redis://").removesuffix("/0")
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "feature_store.yaml").write_text(CONFIGURATION.replace("REDIS", address))
    (repository / "definitions.py").write_text(DEFINITIONS)
    (tmp_path / "questions.py").write_text(QUESTIONS)
    write(history([("a", 0, 0, 1), ("a", 0, 30, 7), ("b", 0, 0, 2)]), repository / "rows.parquet")

    def command(*arguments: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "FEAST_USAGE": "False"}
        done = subprocess.run(arguments, cwd=repository, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    feast = str(Path(sys.executable).with_name("feast"))
    command(feast, "apply")
    command(feast, "materialize", "2026-05-01T00:00:00", f"{NOON:%Y-%m-%dT%H}:59:00")
    told = dict(line.split(" ", 1) for line in command(sys.executable, "../questions.py").splitlines() if " " in line)
    assert told["historical"] == "[1.0, 7.0, nan]"
    assert told["online"] == "[7, 2]"
    assert "config" not in told["own"]
    assert "feature_repo.orders" not in told["own"]
