"""What a client may do to a socket before anybody has asked for a key."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn

from serving import server
from serving.server import MAXIMUM_HEAD_BYTES, Protocol


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers everything."""
    if scope["type"] == "http":
        await receive()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})


def converse(*pieces: bytes) -> list[bytes]:
    """What comes back, up to the end of the connection, each piece sent once the last one was read by the server."""

    async def talk() -> list[bytes]:
        config = uvicorn.Config(application, http=Protocol, lifespan="off", log_config=None)
        serving = uvicorn.Server(config)
        config.load()
        protocols: list[Protocol] = []

        def protocol() -> Protocol:
            protocols.append(Protocol(config, serving.server_state, {}))
            return protocols[-1]

        listener = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        received = await reader.read()
        writer.close()
        listener.close()
        return received.split(b"HTTP/1.1 ")[1:]

    return asyncio.run(talk())


GOOD = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
LAST = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"


def test_a_head_of_usual_size_is_answered():
    large = b"GET / HTTP/1.1\r\nX-A: " + b"a" * (MAXIMUM_HEAD_BYTES - 1_000) + b"\r\n\r\n"
    assert [answer[:3] for answer in converse(large, GOOD, LAST)] == [b"204", b"204", b"204"]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nX-A: " + b"a" * MAXIMUM_HEAD_BYTES + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nX-A: " + b"a" * 3 * MAXIMUM_HEAD_BYTES,
        b"GET / HTTP/1.1\r\n" + b"X-A: a\r\n" * (MAXIMUM_HEAD_BYTES // 8),
        b"GET /" + b"a" * MAXIMUM_HEAD_BYTES + b" HTTP/1.1\r\n\r\n",
    ],
)
def test_a_head_that_is_too_large_is_refused(head: bytes):
    (answer,) = converse(head)

    assert answer.startswith(b"431 ")
    assert b"head-too-large" in answer


def test_what_is_no_request_is_refused():
    (answer,) = converse(b"nonsense\r\n\r\n")

    assert answer.startswith(b"400 ")
    assert b"invalid-head" in answer


def test_a_body_that_nobody_wants_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.01)

    (answer,) = converse(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\n{", b" ")

    assert answer.startswith(b"204 ")


@pytest.mark.parametrize("piece", [b"", b"GET / HTTP/1.1\r\nX-A", GOOD + b"GET /"])
def test_a_head_that_does_not_come_in_time_is_refused(piece: bytes, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.01)

    *answered, refused = converse(piece)

    assert refused.startswith(b"408 ")
    assert [answer[:3] for answer in answered] == [b"204"] * piece.count(GOOD)
