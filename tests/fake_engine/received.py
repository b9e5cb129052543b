"""What the fake engine was sent: kept for `GET /__fake/requests`."""

from __future__ import annotations

import hashlib

import msgspec

BODY_TEXT_BYTES = 64 * 1024


class Received(msgspec.Struct):
    """One request as it arrived, and what became of it."""

    number: int
    connection: int
    """Serial number of the TCP connection; equal numbers tell that it was reused."""
    method: str
    target: str
    http_version: str
    headers: list[tuple[str, str]]
    body_bytes: int = 0
    body_sha256: str = ""
    body: str = ""
    """The first 64 KB; bytes that are not UTF-8 are escaped."""
    body_complete: bool = False
    status: int = 0
    """Status sent; 0 as long as no head is out."""
    events: int = 0
    """Events written to the socket so far."""
    tokens: int = 0
    finished: bool = False
    aborted: bool = False
    """The client left before the answer was complete (a half-close counts, as in vLLM)."""
    closed_with: tuple[int, str] | None = None
    """Code and reason with which the client closed a WebSocket session, or answered our close."""
    closed: bool = False
    """Its connection has ended; of the last request on it alone."""
    unsent_bytes: int = 0
    """Written but not taken by the kernel yet: above 0, the reader is slower than we are."""

    def header(self, name: str) -> list[str]:
        """All values of a header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Digest:
    """A request body passing by: counted, hashed, its beginning kept."""

    def __init__(self, record: Received) -> None:
        self._record = record
        self._hash = hashlib.sha256()
        self._head = bytearray()

    def feed(self, data: bytes) -> None:
        """Take the next piece."""
        self._hash.update(data)
        self._record.body_bytes += len(data)
        if len(self._head) < BODY_TEXT_BYTES:
            self._head += data[: BODY_TEXT_BYTES - len(self._head)]

    def close(self, *, complete: bool) -> None:
        """Write down what is known; called at the end of the body or of the connection."""
        self._record.body_sha256 = self._hash.hexdigest()
        self._record.body = self._head.decode("utf-8", "backslashreplace")
        self._record.body_complete = complete


class Journal:
    """All requests since the last reset."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self._count = 0

    def open(
        self,
        connection: int,
        method: str,
        target: str,
        version: str,
        headers: list[tuple[str, str]],
    ) -> Received:
        """Begin the record of a request."""
        self._count += 1
        record = Received(self._count, connection, method, target, version, headers)
        self.requests.append(record)
        return record

    def reset(self) -> None:
        """Forget all; numbers go on."""
        self.requests.clear()
