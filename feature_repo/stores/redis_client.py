"""Reaching Redis: clients that fail soon, from a URL or Feast's own form of an address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from feast.infra.online_stores.redis import RedisOnlineStore, RedisType
from sqlalchemy import make_url

if TYPE_CHECKING:
    from feature_repo.stores.redis_online import LatestWinsRedisOnlineStoreConfig


def feast_connection_string(url: str) -> str:
    """A Redis URL in the form that a stock Feast client reads: `host:port,db=0,ssl=true,password=...`.

    Raises
    ------
    ValueError
        The password holds a comma, which that form cannot express.
    """
    parsed = make_url(url)
    parts = [f"{parsed.host}:{parsed.port or 6379}", f"db={parsed.database or 0}"]
    parts += ["ssl=true"] if parsed.drivername == "rediss" else []
    for name, value in (("username", parsed.username), ("password", parsed.password)):
        if value and "," in value:
            raise ValueError(f"the Redis {name} holds a comma, which Feast's connection string cannot express")
        parts += [f"{name}={value}"] if value else []
    return ",".join(parts)


def connect(kind: Any, options: LatestWinsRedisOnlineStoreConfig, retry: Any) -> Any:
    """A client with short time-outs and no hidden retries; None where only the stock store knows how (Sentinel)."""
    if options.redis_type == RedisType.redis_sentinel:
        return None
    limits = {"socket_connect_timeout": options.connect_timeout_seconds, "socket_timeout": options.timeout_seconds}
    if "://" in options.connection_string:
        return kind.from_url(options.connection_string, retry=retry, **limits)
    nodes, given = RedisOnlineStore._parse_connection_string(options.connection_string)
    return kind(host=nodes[0]["host"], port=int(nodes[0]["port"]), retry=retry, **{**limits, **given})
