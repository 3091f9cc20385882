"""What an online store holds of the views of a bundle: looked at before the bundle is adopted.

A bundle whose project or views the store knows nothing of would be answered for with missing values alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from serving.bundle import BundleDocument, BundleView
from serving.errors import StoreMismatch
from serving.feast_bytes import Undecodable, split_key

__all__ = ["Found", "look", "require"]

LOOK_SECONDS = 2.0
"""At a store so large that this is not enough, nothing is said to be absent."""
PAGE_KEYS = 2_000
ALWAYS_MISSING = 0.95
"""A view that lacked in as many training rows may lack in the store."""


@dataclass
class Found:
    """What was found.

    Attributes
    ----------
    is_complete : bool
        Whether all keys were looked at.
    projects : set of str
        Feast projects that have keys.
    views : set of str
        Views of the bundle of which there is a row.
    """

    is_complete: bool = False
    projects: set[str] = field(default_factory=set)
    views: set[str] = field(default_factory=set)


def look(url: str, document: BundleDocument, timeout_seconds: float) -> Found:
    """Look through the keys of a store until all views of a bundle are found, or there are no more.

    Raises
    ------
    redis.RedisError
        The store does not answer.
    """
    client = redis.Redis.from_url(
        url, socket_timeout=timeout_seconds, socket_connect_timeout=timeout_seconds, retry=Retry(NoBackoff(), 0)
    )
    found = Found()
    with client:
        for keys in _pages(client, found):
            _sort_in(keys, client, document, found)
            if len(found.views) == len(document.views):
                break
    return found


def require(url: str, document: BundleDocument, timeout_seconds: float) -> str | None:
    """Hold a bundle against a store; returns why that could not be done, None if it was.

    Raises
    ------
    StoreMismatch
        The store has keys, and none of the bundle's project, or no row of one of its views.
    """
    try:
        found = look(url, document, timeout_seconds)
    except RedisError as error:
        return f"Redis does not answer ({error})"
    if not found.projects:
        return "Redis holds no features"
    absent = [view.name for view in document.views if view.name not in found.views and not _may_lack(view, document)]
    if not found.is_complete or not absent:
        return None
    if document.project not in found.projects:
        raise StoreMismatch(
            f"Redis holds nothing of the Feast project {document.project}, only of {', '.join(sorted(found.projects))}"
            ": point ETA_REDIS_URL to the store that the model was trained for, or promote a model of this one"
        )
    raise StoreMismatch(
        f"Redis holds no row of {', '.join(absent)}, which the model was trained with: materialize, or promote a model "
        "that does without"
    )


def _pages(client: redis.Redis, found: Found) -> Iterator[Sequence[bytes]]:
    ends_at, cursor = time.monotonic() + LOOK_SECONDS, 0
    while time.monotonic() < ends_at:
        cursor, keys = client.scan(cursor, count=PAGE_KEYS)  # type: ignore[misc]
        yield keys
        if cursor == 0:
            found.is_complete = True
            return


def _sort_in(keys: Iterable[bytes], client: redis.Redis, document: BundleDocument, found: Found) -> None:
    asked: list[str] = []
    with client.pipeline(transaction=False) as pipeline:
        for key in keys:
            try:
                names, project = split_key(key)
            except Undecodable:  # somebody else's
                continue
            found.projects.add(project)
            if project != document.project:
                continue
            for view in document.views:
                if names == (view.join_key,) and view.name not in found.views:
                    pipeline.hexists(key, f"_ts:{view.name}")  # type: ignore[arg-type]
                    asked.append(view.name)
        answers = pipeline.execute(raise_on_error=False)
    found.views.update(name for name, there in zip(asked, answers, strict=True) if there is True or there == 1)


def _may_lack(view: BundleView, document: BundleDocument) -> bool:
    rates = [column.null_rate for column in document.inputs if column.view == view.name]
    return all(rate is not None and rate >= ALWAYS_MISSING for rate in rates)
