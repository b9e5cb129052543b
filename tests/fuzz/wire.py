"""A client's transport that is none: it notes what is written, and says when to read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Wire(asyncio.Transport):
    """A transport that does as asyncio's do: after its end nothing is read."""

    def __init__(self, protocol: asyncio.BaseProtocol, read: Callable[[], None]) -> None:
        super().__init__()
        self._read = read
        self.protocol = protocol
        self.written = bytearray()
        self.paused = self.behind = False
        self.closed = self.lost = self._ended = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def is_closing(self) -> bool:
        return self._ended

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closed, "written after the end"
        assert not self.lost, "written to nobody"
        if not self._ended:
            self.written += data

    def write_eof(self) -> None:
        """The client does likewise."""
        self.close()

    def is_reading(self) -> bool:
        return not self.paused

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False
        asyncio.get_running_loop().call_soon(self._read)

    def close(self) -> None:
        self.closed = True
        self.end(None)

    def abort(self) -> None:
        self.close()

    def end(self, error: Exception | None) -> None:
        if not self._ended:
            self._ended = True
            asyncio.get_running_loop().call_soon(self._lose, error)

    def _lose(self, error: Exception | None) -> None:
        self.lost = True
        self.protocol.connection_lost(error)
