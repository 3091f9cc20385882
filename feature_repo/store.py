"""The one way to open the feature store, and to register the definitions in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from config import Settings, get_settings
from feature_repo.locking import exclusive

if TYPE_CHECKING:
    from feast import FeatureStore

REPOSITORY = Path(__file__).resolve().parent


def feature_store(settings: Settings | None = None) -> FeatureStore:
    """Feast's store for this installation.

    Parameters
    ----------
    settings : Settings, optional
        The process's settings when not given.

    Raises
    ------
    ValueError
        `settings` are not the process's own: Feast's definitions and plug-ins read those of the process, so the two
        would mean different stores.
    """
    if settings is not None and settings != get_settings():
        raise ValueError(
            f"the settings given (data in {settings.data_dir}) are not those of the process (data in "
            f"{get_settings().data_dir}): set the ETA_ variables instead, and call get_settings.cache_clear()"
        )
    from feast import FeatureStore

    return FeatureStore(repo_path=str(REPOSITORY))


def apply(settings: Settings | None = None) -> dict[str, int]:
    """Register entities, views and services, as `feast -c feature_repo apply` does, one process at a time.

    Two at once on an empty registry would both insert the same rows, and one would fail.

    Returns
    -------
    dict of str to int
        How many of each kind are registered.
    """
    from feature_repo import definitions, sources

    settings = settings or get_settings()
    store = feature_store(settings)
    sources.point_at(settings, sources.SOURCES)
    objects = [
        definitions.project,
        *definitions.ENTITIES,
        *definitions.BATCH_VIEWS,
        *definitions.ON_DEMAND_VIEWS,
        *definitions.SERVICES,
    ]
    with exclusive(settings, "registry", "registering the definitions"):
        store.apply(objects)
    return {
        "entities": len(definitions.ENTITIES),
        "views": len(definitions.BATCH_VIEWS) + len(definitions.ON_DEMAND_VIEWS),
        "services": len(definitions.SERVICES),
    }
