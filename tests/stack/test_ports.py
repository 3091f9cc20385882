"""A port that was given is nobody else's, and a server may listen on it."""

from __future__ import annotations

import socket

import pytest

from stack import ports
from stack.ports import CLUSTER_BUS, LOOPBACK, free_port


def bound(port: int, reuse: bool = False) -> socket.socket:
    """A socket that is bound to the port, as a server's or as that of who looks for a free one."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(reuse))
    try:
        made.bind((LOOPBACK, port))
    except OSError:
        made.close()
        raise
    return made


def test_nobody_else_is_given_the_port_but_a_server_may_listen_on_it_and_again() -> None:
    port = free_port()
    for _ in range(2):
        with pytest.raises(OSError, match="in use"):
            bound(port)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, port))
        with bound(port, reuse=True) as server:
            server.listen()
            socket.create_connection((LOOPBACK, port)).close()


def test_all_ports_are_below_those_that_the_system_gives_and_no_two_are_the_same() -> None:
    given = [free_port(CLUSTER_BUS) for _ in range(50)]
    assert len(set(given)) == 50
    assert all(port + CLUSTER_BUS < 32_768 for port in given)
    with pytest.raises(OSError, match="in use"):
        bound(given[0] + CLUSTER_BUS)


def test_taken_ports_are_not_given_nor_those_whose_second_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    first = next(port for port in range(9_000, 12_000) if _all_free(port))
    monkeypatch.setattr(ports, "_FIRST", first)
    monkeypatch.setattr(ports, "_BEYOND", first + 3)
    with bound(first), bound(first + 1 + CLUSTER_BUS):
        assert free_port(CLUSTER_BUS) == first + 2
        with pytest.raises(OSError, match="no free port"):
            free_port(CLUSTER_BUS)
        assert free_port() == first + 1


def _all_free(first: int) -> bool:
    try:
        for port in range(first, first + 3):
            for each in (port, port + CLUSTER_BUS):
                bound(each).close()
    except OSError:
        return False
    return True
