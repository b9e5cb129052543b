"""What comes on a connection to the engine: one response after another, read by httptools."""

from __future__ import annotations

import httptools

from proxy.errors import InvalidEngineResponse
from proxy.server.request import Headers, first_of_each

_FIRST_STATUS, _LAST_STATUS = 100, 599
# Interim answers count too; so does what comes behind the body without an end.
MAX_HEAD_BYTES = 256 * 1024


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
        self._is_garbled = False
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
            raise self._garbled("The engine answered with something that is not HTTP.") from None
        if self._is_garbled:
            raise self._garbled(
                f"The engine answered with the status {self.status}."
                if not _FIRST_STATUS <= self.status <= _LAST_STATUS
                else "The engine answered in a transfer coding that was not asked for."
            )
        # Behind a chunk's last line end there may be the beginning of the next one's size.
        self.between_chunks = self.between_chunks and data.endswith(b"\n")
        self._fruitless_bytes += len(data)
        if self._chunks or self.is_whole:
            self._fruitless_bytes = 0
        elif self._fruitless_bytes > MAX_HEAD_BYTES:  # the parser keeps a header until it is whole
            raise self._garbled("The engine's answer has a head or trailers without an end.")

    def end(self) -> None:
        """The connection has ended: so has a body without a length and without chunks."""
        is_framed = b"content-length" in self.named or b"transfer-encoding" in self.named
        if self.has_head and not is_framed:
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

    def _garbled(self, text: str) -> InvalidEngineResponse:
        self._is_garbled = True
        return InvalidEngineResponse(text)

    # httptools

    def on_message_begin(self) -> None:
        if self.is_whole:
            self.keeps_alive = False  # an answer to nothing that was asked

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # else it is a trailer, or answers nothing
            self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        if self.is_whole or self._is_garbled:
            return
        self.status = self._parser.get_status_code()
        if not _FIRST_STATUS <= self.status <= _LAST_STATUS:
            self._is_garbled = True
            return
        if self.status < 200:
            return
        self.named = first_of_each(self.headers)
        if b"transfer-encoding" in self.named:
            # No coding but chunks: the header would be lost, and the bytes mean nothing.
            codings = [value for name, value in self.headers if name == b"transfer-encoding"]
            if [coding.lower() for coding in codings] != [b"chunked"]:
                self._is_garbled = True
                return
        self.has_head = True
        self.keeps_alive = self._parser.should_keep_alive()
        if self._method == "HEAD":
            # Its headers speak of a body that does not follow; the parser cannot know.
            self.is_whole, self.keeps_alive = True, False

    def on_chunk_header(self) -> None:
        self.between_chunks = False

    def on_chunk_complete(self) -> None:
        self.between_chunks = True

    def on_body(self, body: bytes) -> None:
        if not self.is_whole:
            self._chunks.append(body)

    def on_message_complete(self) -> None:
        if self.has_head:
            self.is_whole, self.between_chunks = True, False
        else:
            self.headers = []  # an interim answer (1xx): the final one follows
