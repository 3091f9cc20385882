"""The tests, which mirror the rooms. What is here comes before any import of theirs: the environment they run in."""

import os
from pathlib import Path

from tests.children import unhurried  # noqa: F401 (before anything imports Feast)

_OF_WHO_RUNS_THEM = ("ETA_", "AIRFLOW_", "MLFLOW_", "FEAST_", "REDIS_URL")
_IS_MADE = "TESTS_ENVIRONMENT_IS_MADE"
# A test sees the environment that it makes, not the installation or the tools of who runs it. Once: what a test gives a
# child process that imports this, such as the runner of DAGs, is meant.
if _IS_MADE not in os.environ:
    for _name in [name for name in os.environ if name.startswith(_OF_WHO_RUNS_THEM)]:
        del os.environ[_name]
    os.environ[_IS_MADE] = "1"

# No library may call home from a test.
os.environ.update(
    DO_NOT_TRACK="1",
    FEAST_USAGE="False",
    GX_ANALYTICS_ENABLED="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
    # Idle OpenMP threads sleep: on a busy machine they would otherwise spin, and fits take several times as long.
    OMP_WAIT_POLICY="PASSIVE",
    # Each of the suite's processes has one core: more threads would only wait for each other's.
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    POLARS_MAX_THREADS="1",
)

# Child processes import Feast as quickly.
_CHILDREN = str(Path(__file__).parent / "children")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_CHILDREN, os.environ.get("PYTHONPATH")]))
