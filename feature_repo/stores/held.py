"""The keys for which Redis holds rows of a view, told exactly from those of other views and other projects."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key_prefix


def held_keys(client: Any, join_keys: Sequence[str], project: str, size: int) -> Iterator[list[bytes]]:
    """The Redis keys of the entities with these join keys, in lists of at most `size`, each key at least once.

    Parameters
    ----------
    client : redis.Redis or redis.RedisCluster
    join_keys : sequence of str
    project : str
    size : int
    """
    prefix, suffix = serialize_entity_key_prefix(list(join_keys)), project.encode()
    found = client.scan_iter(_glob_escaped(prefix) + b"*" + _glob_escaped(suffix), count=1000)
    own = (raw for raw in found if _is_entity(raw[len(prefix) : len(raw) - len(suffix)], len(join_keys)))
    while part := list(islice(own, size)):
        yield list(dict.fromkeys(part))


def decoded_key(raw: bytes, project: str) -> dict[str, Any]:
    """The values of a Redis key, by join key."""
    entity = deserialize_entity_key(raw[: -len(project.encode())])
    values = [getattr(value, str(value.WhichOneof("val"))) for value in entity.entity_values]
    return dict(zip(entity.join_keys, values, strict=True))


def _is_entity(values: bytes, count: int) -> bool:
    """Whether bytes are so many values and nothing else: the end of another project's name may be this one's."""
    at = 0
    for _ in range(count):
        if len(values) < at + 8:
            return False
        at += 8 + struct.unpack_from("<I", values, at + 4)[0]
    return at == len(values)


def _glob_escaped(raw: bytes) -> bytes:
    return b"".join(b"\\" + bytes([byte]) if byte in b"*?[]\\^-" else bytes([byte]) for byte in raw)
