"""What MLflow's errors mean in this house, and what to do about each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from training.errors import ArtifactsGone, RegistryRefuses, RegistryUnavailable

if TYPE_CHECKING:
    from mlflow.exceptions import MlflowException

GONE = "RESOURCE_DOES_NOT_EXIST"
CHARACTERS = 300
"""Of MLflow's own message: behind them come statements and stack traces of its database."""
REMEDIES = (
    (
        "out-of-date database schema",
        "its database was made by another MLflow than the one that is installed here ({version}). By an older one: "
        "take a backup, run `mlflow db upgrade URI`. By a newer one: install that one, a schema has no way back",
    ),
    ("must be in the 'active' state", "a run was deleted: `mlflow runs restore --run-id ID` brings it back"),
    ("unsupported URI", "set ETA_MLFLOW_TRACKING_URI to the address of a server, or to sqlite:///FILE"),
)
"""Part of MLflow's message -> what it means and what to do."""
NO_REMEDY = "nothing of this run became visible, and the champion is as it was"


@contextmanager
def explained(uri: str) -> Iterator[None]:
    """Around whatever asks MLflow: its errors become this room's.

    Raises
    ------
    RegistryUnavailable
        It does not answer; a later try may succeed.
    ArtifactsGone
        It has no such run, version or file any longer.
    RegistryRefuses
        It answers, and not with what it was asked for.
    """
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (RequestException, SQLAlchemyError, ConnectionError) as error:
        if getattr(getattr(error, "response", None), "status_code", None) == 404:
            raise ArtifactsGone(f"MLflow at {uri} no longer has it: {_short(error)}") from error
        raise unavailable(uri, error) from error
    except MlflowException as error:
        if isinstance(error.__context__, RequestException) or "API request to" in str(error):
            raise unavailable(uri, error) from error
        if error.error_code == GONE:
            raise ArtifactsGone(f"MLflow at {uri} no longer has it: {_short(error)}") from error
        raise RegistryRefuses(f"MLflow at {uri} refuses: {_short(error)}. {_remedy(error)}") from error


def unavailable(uri: str, error: BaseException) -> RegistryUnavailable:
    """The error of an MLflow that does not answer."""
    return RegistryUnavailable(
        f"MLflow at {uri} does not answer ({_short(error)}). Nothing was registered and the champion is as it was. "
        "Start it (make up), or set ETA_MLFLOW_TRACKING_URI, and run again"
    )


def _short(error: BaseException) -> str:
    return str(error)[:CHARACTERS].strip().rstrip(".")


def _remedy(error: MlflowException) -> str:
    import mlflow

    found = [text for part, text in REMEDIES if part in str(error)]
    return (found or [NO_REMEDY])[0].format(version=mlflow.__version__)
