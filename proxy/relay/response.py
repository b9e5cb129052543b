"""What comes on a connection to the engine: one response after another, read by httptools.

The engine is asked not to compress. Where something in between does all the same, JSON and events
are decompressed here: else their tokens were unknown, and no event could be withheld.
"""

from __future__ import annotations

import zlib

import httptools

from proxy.errors import InvalidEngineResponse
from proxy.server.request import Headers

_FIRST_STATUS, _LAST_STATUS = 100, 599
# Interim answers count too; so does what comes behind the body without an end.
MAX_HEAD_BYTES = 256 * 1024
_READ = (b"application/json", b"text/event-stream")
_UNPACKED = (b"gzip", b"x-gzip", b"deflate")
# What one read of the socket may become: text is never compressed to a hundredth.
_MOST_UNPACKED_BYTES = 32 * 1024 * 1024
_ANY_HEADER_OF_ZLIB = 32 + zlib.MAX_WBITS


class Response:
    """The response to the latest request; the parser behind it stays the same for all."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.begin("GET")

    def begin(self, method: str) -> None:
        """Forget the response before: the next is one to a request of `method`."""
        self._method = method
        self._chunks: list[bytes] = []
        self._fruitless_bytes = 0
        self._fault = ""
        self._is_framed = False
        self._unpacker: Unpacker | None = None
        self.status = 0
        self.headers: Headers = []
        self.named: dict[bytes, bytes] = {}
        """The first value of each header, once the head is whole."""
        self.has_head = False
        self.is_whole = False
        self.keeps_alive = True
        """The connection may serve another request after it."""
        self.between_chunks = False
        """All that has come is whole chunks; without chunks never."""

    def feed(self, data: bytes) -> None:
        """Read on.

        Raises:
            InvalidEngineResponse: this is not HTTP. What came before it can still be taken.
        """
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fault = self._fault or "The engine answered with something that is not HTTP."
        if self._fault:
            raise InvalidEngineResponse(self._fault)
        # Behind a chunk's last line end there may be the beginning of the next one's size.
        self.between_chunks = self.between_chunks and data.endswith(b"\n")
        self._fruitless_bytes += len(data)
        if self._chunks or self.is_whole:
            self._fruitless_bytes = 0
        elif self._fruitless_bytes > MAX_HEAD_BYTES:  # the parser keeps a header until it is whole
            self._fault = "The engine's answer has a head or trailers without an end."
            raise InvalidEngineResponse(self._fault)

    def end(self) -> None:
        """The connection has ended: so has a body without a length and without chunks."""
        is_unpacked = self._unpacker is None or self._unpacker.is_whole
        if self.has_head and not self._is_framed and is_unpacked:
            self.is_whole = True

    @property
    def has_more(self) -> bool:
        """Something of the body waits to be taken."""
        return bool(self._chunks)

    def take(self) -> bytes:
        """What has come of the body since it was taken last."""
        chunks = self._chunks
        taken = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        chunks.clear()
        return taken

    # httptools

    def on_message_begin(self) -> None:
        if self.is_whole:
            self.keeps_alive = False  # an answer to nothing that was asked

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # else it is a trailer, or answers nothing
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.is_whole or self._fault:
            return
        self.status = self._parser.get_status_code()
        if not _FIRST_STATUS <= self.status <= _LAST_STATUS:
            self._fault = f"The engine answered with the status {self.status}."
            return
        if self.status < 200:
            return
        self.named = dict(reversed(self.headers))
        if b"transfer-encoding" in self.named:
            # No coding but chunks: the header would be lost, and the bytes mean nothing.
            codings = [value for name, value in self.headers if name == b"transfer-encoding"]
            if [coding.lower() for coding in codings] != [b"chunked"]:
                self._fault = "The engine answered in a transfer coding that was not asked for."
                return
        self._is_framed = b"content-length" in self.named or b"transfer-encoding" in self.named
        if (
            b"content-encoding" in self.named
            and self.status != 206
            and self.named.get(b"content-type", b"").lower().startswith(_READ)
        ):
            every = [value for name, value in self.headers if name == b"content-encoding"]
            codings = [coding.strip() for coding in b",".join(every).lower().split(b",")]
            codings = [coding for coding in codings if coding not in (b"", b"identity")]
            if len(codings) > 1 or (codings and codings[0] not in _UNPACKED):
                self._fault = "The engine answered in a content coding that was not asked for."
                return
            if codings:
                self._unpacker = Unpacker()
                untrue = (b"content-encoding", b"content-length")
                self.headers = [header for header in self.headers if header[0] not in untrue]
                self.named = dict(reversed(self.headers))
        self.has_head = True
        self.keeps_alive = self._parser.should_keep_alive()
        if self._method == "HEAD":
            # Its headers speak of a body that does not follow; the parser cannot know.
            self.is_whole, self.keeps_alive = True, False

    def on_chunk_header(self) -> None:
        self.between_chunks = False

    def on_chunk_complete(self) -> None:
        # What is compressed takes no fast path.
        self.between_chunks = self._unpacker is None

    def on_body(self, body: bytes) -> None:
        if self.is_whole:
            return
        if self._unpacker is not None:
            try:
                body = self._unpacker.feed(body)
            except zlib.error:
                self._unpacker.is_whole = False
                self._fault = "The engine's compressed answer cannot be decompressed."
                return
        if body:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self._unpacker is not None and not self._unpacker.is_whole:
            self._fault = self._fault or "The engine's compressed answer has no end."
        elif self.has_head:
            self.is_whole, self.between_chunks = True, False
        else:
            self.headers = []  # an interim answer (1xx): the final one follows


class Unpacker:
    """Decompresses a body; one that is empty is whole, too."""

    def __init__(self) -> None:
        self._zip = zlib.decompressobj(_ANY_HEADER_OF_ZLIB)
        self.is_whole = True

    def feed(self, data: bytes) -> bytes:
        """What comes out of more of it. Raises `zlib.error` where it is not compressed so, or is
        far too much."""
        unpacked = b""
        while data:
            if self._zip.eof:  # gzip may have several members
                self._zip = zlib.decompressobj(_ANY_HEADER_OF_ZLIB)
            unpacked += self._zip.decompress(data, _MOST_UNPACKED_BYTES)
            if self._zip.unconsumed_tail or len(unpacked) > _MOST_UNPACKED_BYTES:
                raise zlib.error("it unpacks to more than any text does")
            data = self._zip.unused_data
        self.is_whole = self._zip.eof
        return unpacked
