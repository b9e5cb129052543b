"""httpx over a Unix socket: what the sidecar asks an engine that may sleep."""

from __future__ import annotations

import asyncio
import gzip
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.relay.unix_transport import UnixTransport
from tests.patience import PATIENCE

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
PAGE = b"# metrics\n" * 1000
PACKED = gzip.compress(PAGE)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "engine.sock")


@pytest.fixture
def engine(path: str) -> Iterator[socket.socket]:
    """One that accepts, and says what a test makes it say."""
    with socket.socket(socket.AF_UNIX) as engine:
        engine.bind(path)
        engine.listen()
        engine.setblocking(False)
        yield engine


@pytest.fixture
async def client(path: str) -> AsyncIterator[httpx.AsyncClient]:
    transport = UnixTransport(path)
    async with httpx.AsyncClient(
        base_url="http://engine", transport=transport, timeout=PATIENCE
    ) as client:
        yield client


class Peer:
    """The engine's end of a connection."""

    def __init__(self, end: socket.socket) -> None:
        self.end, self._loop = end, asyncio.get_running_loop()

    @classmethod
    async def accepted(cls, engine: socket.socket) -> Peer:
        return cls((await asyncio.get_running_loop().sock_accept(engine))[0])

    async def request(self, end: bytes = b"\r\n\r\n") -> bytes:
        read = b""
        async with asyncio.timeout(PATIENCE):
            while not read.endswith(end):
                read += await self._loop.sock_recv(self.end, 65536)
        return read

    def say(self, text: bytes) -> None:
        self.end.send(text)

    def leave(self) -> None:
        self.end.close()


async def test_answers_come_whole_over_one_connection(
    engine: socket.socket, client: httpx.AsyncClient
) -> None:
    first = asyncio.create_task(client.get("/health?a=b"))
    peer = await Peer.accepted(engine)
    head = await peer.request()
    assert head.startswith(b"GET /health?a=b HTTP/1.1\r\nHost: engine\r\n")
    peer.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-a: 1\r\nx-a: 2\r\n\r\n2\r\nto")
    peer.say(b"\r\n5\r\ngethe\r\n1\r\nr\r\n0\r\n\r\n")
    answer = await first
    assert (answer.status_code, answer.text) == (200, "together")
    assert answer.headers.get_list("x-a") == ["1", "2"]
    second = asyncio.create_task(client.post("/sleep", content=b"level one"))
    assert (await peer.request(b"level one")).startswith(b"POST /sleep HTTP/1.1\r\n")
    peer.say(b"HTTP/1.1 418 No\r\ncontent-length: 0\r\n\r\n")
    assert (await second).status_code == 418
    peer.leave()


async def test_a_form_is_sent_with_its_file(
    engine: socket.socket, client: httpx.AsyncClient
) -> None:
    files = {"file": ("tone.wav", b"RIFF" * 9, "audio/wav")}
    asking = asyncio.create_task(client.post("/v1/audio", data={"model": "m"}, files=files))
    peer = await Peer.accepted(engine)
    form = await peer.request(b"--\r\n")
    assert b"RIFF" * 9 in form
    assert b'filename="tone.wav"' in form
    peer.say(OK)
    assert (await asking).text == "ok"
    peer.leave()


@pytest.mark.parametrize("kind", [b"text/plain", b"application/json"])
async def test_what_a_middleware_of_the_engine_compressed_is_text_again(
    engine: socket.socket, client: httpx.AsyncClient, kind: bytes
) -> None:
    asking = asyncio.create_task(client.get("/metrics"))
    peer = await Peer.accepted(engine)
    await peer.request()
    head = b"content-type: %b\r\ncontent-encoding: gzip\r\ncontent-length: %d" % (kind, len(PACKED))
    peer.say(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + PACKED)
    assert (await asking).content == PAGE
    peer.leave()


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        (b"", httpx.RemoteProtocolError),
        (OK[:-1], httpx.RemoteProtocolError),
        (b"SSH-2.0-x\r\n", httpx.RemoteProtocolError),
    ],
    ids=["nothing", "a part", "no HTTP"],
)
async def test_an_engine_that_ends_is_one_of_httpx_own_errors(
    engine: socket.socket, client: httpx.AsyncClient, said: bytes, failure: type[Exception]
) -> None:
    asking = asyncio.create_task(client.get("/health"))
    peer = await Peer.accepted(engine)
    await peer.request()
    peer.say(said)
    peer.leave()
    with pytest.raises(failure) as caught:
        await asking
    assert isinstance(caught.value, httpx.HTTPError)


async def test_an_engine_that_says_nothing_is_a_timeout_and_sees_the_connection_end(
    engine: socket.socket, client: httpx.AsyncClient
) -> None:
    asking = asyncio.create_task(client.get("/health", timeout=0.05))
    peer = await Peer.accepted(engine)
    await peer.request()
    with pytest.raises(httpx.ReadTimeout):
        await asking
    with suppress(ConnectionResetError):
        assert await asyncio.get_running_loop().sock_recv(peer.end, 1) == b""
    peer.leave()


async def test_a_socket_that_nobody_listens_on_refuses(client: httpx.AsyncClient) -> None:
    with pytest.raises(httpx.ConnectError):
        await client.get("/health")


async def test_a_question_that_ends_as_its_answer_comes_leaves_no_trace(
    engine: socket.socket, client: httpx.AsyncClient
) -> None:
    """As where a process ends, and its probe with it: both in one turn of the loop."""
    loop = asyncio.get_running_loop()
    found: list[dict[str, Any]] = []
    loop.set_exception_handler(lambda _, context: found.append(context))
    ends, end = socket.socketpair()
    asking = asyncio.create_task(client.get("/health"))
    peer = await Peer.accepted(engine)
    await peer.request()
    cancel: Callable[[], object] = asking.cancel
    loop.add_reader(ends, cancel)
    await asyncio.sleep(0)  # the loop looks at both
    end.send(b"x")
    peer.say(OK)
    with pytest.raises(asyncio.CancelledError):
        await asking
    loop.remove_reader(ends)
    await asyncio.sleep(0)
    assert not found
    for each in (ends, end):
        each.close()
    peer.leave()
