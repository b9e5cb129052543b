"""A server of the tests at an address of this machine that counts as the only public one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from proxy.media.fetch import Fetcher, FetchLimits
from proxy.media.policy import Policy

PUBLIC = "127.0.0.5"
OTHER_PUBLIC = "127.0.0.6"


@dataclass
class Asked:
    """A request as the server sees it; names of headers in lower case."""

    target: str
    headers: dict[str, str]


Reply = Callable[[Asked, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def server(reply: Reply, host: str = PUBLIC, **options: Any) -> AsyncIterator[int]:
    """The port of a server that reads one request of each connection and then does `reply`."""
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").strip().split("\r\n")
            pairs = (line.split(": ", 1) for line in lines)
            headers = {name.lower(): value for name, value in pairs}
            await reply(Asked(first.split(" ")[1], headers), reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        serving.add(task)
        task.add_done_callback(serving.discard)
        await asyncio.wait([task])

    async with await asyncio.start_server(tracked, host, 0, **options) as listening:
        yield listening.sockets[0].getsockname()[1]
        for task in serving:
            task.cancel()


@asynccontextmanager
async def site(answer: Callable[[Asked], bytes]) -> AsyncIterator[tuple[str, list[Asked]]]:
    """What stands behind `example.com` in a URL (the port), and what was asked of the server."""
    asked: list[Asked] = []

    async def reply(
        request: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        asked.append(request)
        writer.write(answer(request))
        await writer.drain()

    async with server(reply) as port:
        yield f":{port}", asked


def answered(content: bytes = b"", status: int = 200, **headers: str) -> bytes:
    """A whole answer; `content_length` replaces the true one."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    named.setdefault("content-length", str(len(content)))
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"HTTP/1.1 {status} x\r\n{lines}\r\n".encode() + content


class Names:
    """A name server of the tests: each question gets the next answer, the last one for good.

    Names are those before the first dot; addresses are their own.
    """

    def __init__(self, **answers: list[list[str]]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        answers = self._answers.get(host.partition(".")[0], [[host]])
        return answers.pop(0) if len(answers) > 1 else answers[0]


def policy(names: Names) -> Policy:
    return Policy(resolve=names, is_reachable=(PUBLIC, OTHER_PUBLIC).__contains__)


def fetcher(
    names: Names, *, limit: int = 100_000, seconds: float = 60.0, at_once: int = 8
) -> Fetcher:
    return Fetcher(policy(names), FetchLimits(limit, seconds, at_once))
