"""The `model` of an upload (`multipart/form-data`), wherever in the form it stands.

What comes before it is kept: 1 MiB in memory and the rest in a file that nobody else sees.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from tempfile import SpooledTemporaryFile
from typing import IO

from proxy.errors import Overloaded

_MEMORY_BYTES = 1024 * 1024
_READ_BYTES = 256 * 1024
# Longer ones are no field that names a model.
_MAX_HEAD_BYTES, _MAX_NAME_BYTES = 8 * 1024, 1024
_BOUNDARY = re.compile(rb'multipart/form-data\s*;.*?\bboundary="?([^";,\s]{1,70})', re.I | re.S)
_IS_MODEL = re.compile(rb'disposition:\s*form-data\s*;[^\r]*\bname="?model"?\s*(;|\r|$)', re.I)
_IS_FILE = re.compile(rb"\bfilename\*?=", re.I)

Pieces = AsyncGenerator[bytes | bytearray, None]


def boundary_of(content_type: bytes) -> bytes | None:
    """None where the body is no such form."""
    match = _BOUNDARY.match(content_type)
    return match[1] if match is not None else None


class FormReader:
    """Reads a form as it comes, until `model` is known or the form has ended."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        # As if a line had ended before the first byte: the first delimiter begins the form.
        self._unread = bytearray(b"\r\n")
        self._step = self._skip
        self._is_over = False
        self.model: str | None = None

    def feed(self, piece: bytes | bytearray) -> bool:
        """Whether no more need be read."""
        self._unread += piece
        while not self._is_over and self._step():
            pass
        return self._is_over

    def _skip(self) -> bool:
        """Pass over a part's content. False: more must come."""
        found = self._unread.find(self._delimiter)
        if found < 0:
            del self._unread[: max(0, len(self._unread) - len(self._delimiter))]
            return False
        del self._unread[: found + len(self._delimiter)]
        self._step = self._read_head
        return True

    def _read_head(self) -> bool:
        if self._unread.startswith(b"--"):
            self._is_over = True
            return True
        end = self._unread.find(b"\r\n\r\n")
        if end < 0:
            self._is_over = len(self._unread) > _MAX_HEAD_BYTES
            return False
        head = bytes(self._unread[:end])
        # The end of the last line stays: an empty content is followed by the delimiter at once.
        del self._unread[: end + 2]
        is_model = _IS_MODEL.search(head) is not None and not _IS_FILE.search(head)
        self._step = self._read_model if is_model else self._skip
        return True

    def _read_model(self) -> bool:
        end = self._unread.find(self._delimiter)
        if end < 0:
            if len(self._unread) > _MAX_NAME_BYTES + len(self._delimiter):
                self._step = self._skip
                return True
            return False
        self.model = self._unread[2:end].decode(errors="replace") or None
        self._is_over = True
        return True


async def read_model(pieces: Pieces, boundary: bytes) -> tuple[str | None, Pieces, IO[bytes]]:
    """The model that a form names, the form's pieces from its first byte, and the file that
    they come from: close it.

    Raises:
        Overloaded: the disk takes no more.
        RequestFailure: what `pieces` raises.
    """
    spool = SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115 (it outlives this function)
    reader, size = FormReader(boundary), 0
    try:
        async for piece in pieces:
            size += len(piece)
            if size > _MEMORY_BYTES:
                await asyncio.to_thread(spool.write, piece)
            else:
                spool.write(piece)
            if reader.feed(piece):
                break
        spool.seek(0)
    except OSError as error:
        spool.close()
        text = f"This server cannot keep an upload on its disk: {error.strerror}."
        raise Overloaded(text) from error
    except BaseException:
        spool.close()
        raise
    return reader.model, _from_the_start(spool, size > _MEMORY_BYTES, pieces), spool


async def _from_the_start(spool: IO[bytes], on_disk: bool, rest: Pieces) -> Pieces:
    async with aclosing(rest):
        while True:
            kept = await asyncio.to_thread(spool.read, _READ_BYTES) if on_disk else spool.read()
            if not kept:
                break
            yield kept
        spool.close()
        async for piece in rest:
            yield piece
