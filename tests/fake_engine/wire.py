"""The socket side of one answer: head, framing, and where the bytes are cut."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections.abc import Iterator
from email.utils import formatdate
from enum import Enum, auto
from http import HTTPStatus

from .script import Script

Fields = list[tuple[str, str]]
# Long enough for a reader on the same machine to take what came before a reset.
RESET_GRACE_SECONDS = 0.03
_LINGER_RESETS = struct.pack("ii", 1, 0)


class Framing(Enum):
    """How the end of a body is told."""

    LENGTH = auto()
    CHUNKED = auto()
    CLOSE = auto()
    NONE = auto()
    """No body at all: HEAD, 204, 304."""


class Cutter:
    """Slices what goes out, as a script's `cut` says."""

    def __init__(self, cut: str | None) -> None:
        self._mode, _, rest = (cut or "").partition(":")
        self._numbers = [int(number) for number in rest.replace(":", ",").split(",") if number]
        self._offset = 0
        self._random = random.Random(self._numbers[0] if self._mode == "random" else 0)

    @property
    def active(self) -> bool:
        """Anything to cut at all."""
        return bool(self._mode)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """The slices of one write."""
        start = 0
        while start < len(data):
            size = max(1, self._size())
            piece = data[start : start + size]
            start += len(piece)
            self._offset += len(piece)
            yield piece

    def _size(self) -> int:
        if self._mode == "every":
            return self._numbers[0]
        if self._mode == "random":
            longest = self._numbers[1] if len(self._numbers) > 1 else 64
            return self._random.randint(1, longest)
        ahead = [at - self._offset for at in self._numbers if at > self._offset]
        return min(ahead, default=1 << 62)


class Flow:
    """Whether the transport takes more: used only where a script asks for back-pressure."""

    def __init__(self) -> None:
        self._writable = asyncio.Event()
        self._writable.set()

    def pause(self) -> None:
        """The transport's buffer is full."""
        self._writable.clear()

    def resume(self) -> None:
        """It has drained."""
        self._writable.set()

    async def wait(self) -> None:
        """Until there is room."""
        await self._writable.wait()


class Wire:
    """Writes for one exchange."""

    def __init__(self, transport: asyncio.Transport, flow: Flow, script: Script) -> None:
        self.transport = transport
        self._flow = flow
        self._script = script
        self._cutter = Cutter(script.cut)
        self._rest = b""

    async def write(self, data: bytes) -> None:
        """Bytes to the socket, cut as scripted."""
        if not self._cutter.active:
            self.transport.write(data)
        for piece in self._cutter.pieces(data) if self._cutter.active else ():
            self.transport.write(piece)
            await asyncio.sleep(self._script.cut_ms / 1000)
        if self._script.backpressure:
            await self._flow.wait()

    async def body(self, data: bytes, framing: Framing) -> None:
        """A piece of the body in its framing."""
        if framing is Framing.CHUNKED and self._script.chunk_bytes:
            await self._rechunk(data)
        elif framing is not Framing.NONE and data:
            await self.write(self.chunk(data) if framing is Framing.CHUNKED else data)

    async def _rechunk(self, data: bytes) -> None:
        size = self._script.chunk_bytes
        data = self._rest + data
        whole = len(data) - len(data) % size
        self._rest = data[whole:]
        for start in range(0, whole, size):
            await self.write(self.chunk(data[start : start + size]))

    def chunk(self, data: bytes) -> bytes:
        """One HTTP chunk."""
        extension = self._script.chunk_extension.encode()
        return f"{len(data):x}".encode() + extension + b"\r\n" + data + b"\r\n"

    async def flush(self) -> None:
        """The rest that did not fill a chunk of `chunk_bytes`."""
        if self._rest:
            rest, self._rest = self._rest, b""
            await self.write(self.chunk(rest))

    async def end(self, framing: Framing) -> None:
        """The end of the body."""
        await self.flush()
        if framing is Framing.CHUNKED:
            await self.write(b"0\r\n\r\n")

    async def drained(self) -> None:
        """Until the kernel has taken everything, or the client is gone."""
        while self.transport.get_write_buffer_size() and not self.transport.is_closing():  # noqa: ASYNC110
            await asyncio.sleep(0.002)

    async def reset(self) -> None:
        """RST instead of FIN, after what was written has left."""
        await self.drained()
        await asyncio.sleep(RESET_GRACE_SECONDS)
        reset(self.transport)


def reset(transport: asyncio.Transport) -> None:
    """Break the connection off with a RST."""
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family != socket.AF_UNIX:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESETS)
    transport.abort()


def reason(status: int) -> str:
    """The phrase of a status; nothing for one that has none."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def head(status: int, fields: Fields, version: str = "1.1") -> bytes:
    """Status line and fields, as they are."""
    lines = [f"HTTP/{version} {status} {reason(status)}"]
    lines += [f"{name}: {value}" for name, value in fields]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def standard_fields() -> Fields:
    """What uvicorn puts first."""
    return [("date", formatdate(time.time(), usegmt=True)), ("server", "uvicorn")]
