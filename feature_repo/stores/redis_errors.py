"""What Redis answers when it cannot do what it is asked: which Redis, why, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from sqlalchemy import URL, make_url

if TYPE_CHECKING:
    from feature_repo.stores.redis_online import LatestWinsRedisOnlineStoreConfig

_REFUSALS: tuple[tuple[type[RedisError] | None, tuple[str, ...], str, str], ...] = (
    (OutOfMemoryError, ("OOM",), "is out of memory", "raise its maxmemory, or delete keys that nobody needs"),
    (ReadOnlyError, ("READONLY",), "is a read-only replica", "give the address of the primary"),
    (
        None,
        ("without any password configured", "no password is set"),
        "has no password",
        "leave it out of the connection string",
    ),
    (AuthenticationError, (), "does not take the user or password", "correct them in the connection string"),
    (NoPermissionError, (), "does not let this user do that", "allow it in its access list"),
    (BusyLoadingError, (), "is still loading its data", "wait until it has"),
    (ClusterDownError, ("MASTERDOWN",), "is a cluster of which a part is down", "bring its nodes back"),
    (MovedError, ("CROSSSLOT",), "is a cluster", "set redis_type: redis_cluster"),
    (None, ("luster mode is not enabled", "cluster support disabled"), "is no cluster", "set redis_type: redis"),
    (None, ("MISCONF",), "cannot save its data, and so takes no writes", "look at its disk and its log"),
    (None, ("NOREPLICAS",), "has too few replicas to take writes", "bring its replicas back"),
    (None, ("max number of clients",), "has no connection left", "raise its maxclients, or close connections"),
    (None, ("WRONGTYPE",), "holds something else under such a key", "use a database of its own for features"),
    (None, ("DB index is out of range",), "has no such database", "correct the number in the connection string"),
)
"""The client's class of a refusal, or words in it (inside of a script there is no class); what it means; what to do."""


class OnlineStoreUnavailable(ConnectionError):
    """Redis cannot be reached, did not answer in time, or refuses; the message names address, cause and what to do."""


@contextmanager
def reachable(options: LatestWinsRedisOnlineStoreConfig) -> Iterator[None]:
    """Tell any error of Redis as `OnlineStoreUnavailable`."""
    try:
        yield
    except RedisError as error:
        raise OnlineStoreUnavailable(told(error, options)) from error


def told(error: RedisError, options: LatestWinsRedisOnlineStoreConfig) -> str:
    """What an error of Redis means, with the address and without the password, and what to do."""
    where = f"Redis at {_address(options.connection_string)}"
    for kind, words, meaning, remedy in _REFUSALS:
        if (kind and isinstance(error, kind)) or any(word in str(error) for word in words):
            return f"{where} {meaning} ({error}): {remedy}, and do the same again"
    if isinstance(error, RedisConnectionError | RedisTimeoutError):
        return f"{where} does not answer ({error}): {options.remedy_when_down}"
    return f"{where} refuses ({error}): look at its log"


def _address(connection_string: str) -> str:
    """Host and port only: a connection string may hold a password."""
    if "://" in connection_string:
        parsed: URL = make_url(connection_string)
        return f"{parsed.host}:{parsed.port or 6379}"
    return connection_string.split(",")[0]
