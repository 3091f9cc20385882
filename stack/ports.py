"""Ports on loopback for servers that tests and benchmarks start: reserved, not only found free a moment ago.

Between asking the system for a free port and a server's listening on it, any other process may be given the same one.
Here a socket stays bound to the port, without listening, for as long as this process lives: nobody else is given the
port, a connection to it is refused, and a server that sets SO_REUSEADDR (all of ours do) may still listen on it.
"""

from __future__ import annotations

import random
import socket

LOOPBACK = "127.0.0.1"
CLUSTER_BUS = 10_000
"""A node of a Redis Cluster listens on its port plus this, too."""
# Below what Linux gives to outgoing connections (from 32,768), with and without CLUSTER_BUS.
_FIRST, _BEYOND = 12_000, 22_000

_held: list[socket.socket] = []


def free_port(*more: int) -> int:
    """A port on loopback that is this process's own until it ends.

    Parameters
    ----------
    *more : int
        Distances at which a port is needed, too (`CLUSTER_BUS`).

    Raises
    ------
    OSError
        No port is left; of ten thousand.
    """
    candidates = list(range(_FIRST, _BEYOND))
    random.SystemRandom().shuffle(candidates)
    for port in candidates:
        if (sockets := _reserve([port, *(port + distance for distance in more)])) is not None:
            _held.extend(sockets)
            return port
    raise OSError(f"no free port from {_FIRST} to {_BEYOND} on {LOOPBACK}")


def _reserve(ports: list[int]) -> list[socket.socket] | None:
    """Sockets that are bound to all of the ports; None, and no socket, where one of them is taken."""
    sockets: list[socket.socket] = []
    try:
        for port in ports:
            sockets.append(socket.socket())
            sockets[-1].bind((LOOPBACK, port))
            # Only now: two sockets that both have it when they bind would share the port.
            sockets[-1].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError:
        for held in sockets:
            held.close()
        return None
    return sockets
