"""A client that has every byte in its hand: what it sends, when, and what came back exactly."""

from __future__ import annotations

import json
import re
import secrets
import socket
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

from tests.fake_engine import x_fake
from tests.patience import PATIENCE
from tests.wire import secrets as secrets_

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"

PROMPT: dict[str, dict[str, Any]] = {
    CHAT: {"messages": [{"role": "user", "content": secrets_.PROMPT}]},
    COMPLETIONS: {"prompt": secrets_.PROMPT},
    MESSAGES: {"messages": [{"role": "user", "content": secrets_.PROMPT}], "max_tokens": 8},
    RESPONSES: {"input": secrets_.PROMPT},
}
STREAM = {"stream": True}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}
NO_USAGE = {"stream": True, "stream_options": {"include_usage": False}}

_LINGER_RESETS = struct.pack("ii", 1, 0)
_READ_BYTES = 256 * 1024

Pair = tuple[str, str]
Pairs = list[Pair]


def new_id() -> str:
    """A request id of which there is only one."""
    return secrets.token_hex(8)


def prompt(path: str, *more: Mapping[str, Any]) -> dict[str, Any]:
    """A body that `path` takes, with more fields."""
    body = dict(PROMPT[path])
    for fields in more:
        body |= fields
    return body


def request(
    path: str,
    body: Any = None,
    *,
    request_id: str | None = None,
    method: str = "",
    fake: Mapping[str, Any] | None = None,
    headers: Pairs | None = None,
    version: str = "1.1",
) -> bytes:
    """The bytes of one request. A dict is sent as JSON; `headers` are written as they are."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    names = {name.lower() for name, _ in headers or ()}
    pairs: Pairs = [("host", "sidecar")]
    if "authorization" not in names:
        pairs.append(("authorization", f"Bearer {secrets_.KEY}"))
    if body is not None and "content-type" not in names:
        pairs.append(("content-type", "application/json"))
    if body is not None and not names & {"content-length", "transfer-encoding"}:
        pairs.append(("content-length", str(len(data))))
    if request_id is not None:
        pairs.append(("x-request-id", request_id))
    pairs += (x_fake(**fake) if fake else {}).items()
    pairs += headers or []
    method = method or ("GET" if body is None else "POST")
    lines = [f"{method} {path} HTTP/{version}", *(f"{name}: {value}" for name, value in pairs)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + data


@dataclass
class Answer:
    """One answer as it came over the wire."""

    status: int
    headers: Pairs
    request_id: str = ""
    chunks: list[bytes] = field(default_factory=list)
    interim: list[int] = field(default_factory=list)
    whole: bool = False
    """Its framing was kept to the end: the last chunk, or the declared length."""
    framing: str = ""

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def all(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for key, value in self.headers if key == name]

    def header(self, name: str) -> str:
        """The one value of a header."""
        (value,) = self.all(name)
        return value

    def json(self) -> Any:
        return json.loads(self.body)

    def events(self) -> list[str]:
        """The events of a stream, without the blank lines between them."""
        text = self.body.decode()
        assert text.endswith("\n\n"), text[-100:]
        return text[:-2].split("\n\n")

    def data(self) -> list[Any]:
        """The JSON of the events; `[DONE]` as it is."""
        found = [event.rpartition("data: ")[2] for event in self.events()]
        return [text if text == "[DONE]" else json.loads(text) for text in found]


class Ended(Exception):
    """The other side closed before what was waited for had come."""


class Client:
    """One connection. All waits are bounded."""

    def __init__(self, port: int, *, receive_bytes: int = 0, seconds: float = PATIENCE) -> None:
        self._socket = socket.socket()
        if receive_bytes:  # before the connection: the window is agreed on then
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self._socket.settimeout(seconds)
        self._socket.connect(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._held = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Sending and leaving

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def ask(self, path: str, body: Any = None, /, **more: Any) -> str:
        """Send one request; returns its id. `more` is what `request` takes."""
        request_id: str = more.pop("request_id", None) or new_id()
        self.send(request(path, body, request_id=request_id, **more))
        return request_id

    def close(self) -> None:
        self._socket.close()

    def reset(self) -> None:
        """Leave with a RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESETS)
        self._socket.close()

    def close_half(self) -> None:
        """Say that nothing more will be sent; go on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    # Reading

    def receive(self, size: int = _READ_BYTES) -> bytes:
        """What comes next; raises `Ended` at the end."""
        if self._held:
            data, self._held = self._held[:size], self._held[size:]
            return data
        data = self._socket.recv(size)
        if not data:
            raise Ended
        return data

    def until(self, mark: bytes) -> bytes:
        """All bytes up to and with `mark`."""
        data = self._held
        while mark not in data:
            more = self._socket.recv(_READ_BYTES)
            if not more:
                self._held = b""
                raise Ended(data[-2000:])
            data += more
        found, _, self._held = data.partition(mark)
        return found + mark

    def exactly(self, size: int) -> bytes:
        while len(self._held) < size:
            more = self._socket.recv(_READ_BYTES)
            if not more:
                raise Ended
            self._held += more
        data, self._held = self._held[:size], self._held[size:]
        return data

    def rest(self) -> bytes:
        """All bytes until the end of the connection."""
        pieces, self._held = [self._held], b""
        with suppress(ConnectionResetError):
            while data := self._socket.recv(_READ_BYTES):
                pieces.append(data)
        return b"".join(pieces)

    def head(self) -> Answer:
        """Status and headers of the next answer; 1xx before it are noted."""
        interim: list[int] = []
        while True:
            lines = self.until(b"\r\n\r\n")[:-4].decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ", 2)[1])
            if status >= 200 or status == 101:
                break
            interim.append(status)
        pairs: Pairs = []
        for line in lines[1:]:
            name, _, value = line.partition(":")
            pairs.append((name.lower(), value.strip(" ")))
        return Answer(status, pairs, interim=interim)

    def answer(self, *, method: str = "POST") -> Answer:
        """One whole answer. Where it is broken off, `whole` is false."""
        answer = self.head()
        with suppress(Ended, ConnectionResetError):
            self._body(answer, method)
            answer.whole = True
        ids = answer.all("x-request-id")
        answer.request_id = ids[0] if len(ids) == 1 else ""
        return answer

    def _body(self, answer: Answer, method: str) -> None:
        if method == "HEAD" or answer.status in (204, 304):
            answer.framing = "none"
        elif answer.all("transfer-encoding"):
            assert answer.all("transfer-encoding") == ["chunked"]
            assert not answer.all("content-length")
            answer.framing = "chunked"
            while chunk := self.chunk():
                answer.chunks.append(chunk)
        elif answer.all("content-length"):
            answer.framing = "length"
            left = int(answer.header("content-length"))
            while left:
                piece = self.receive(min(left, _READ_BYTES))
                answer.chunks.append(piece)
                left -= len(piece)
        else:
            answer.framing = "close"
            answer.chunks.append(self.rest())

    def chunk(self) -> bytes:
        """One HTTP chunk; empty at the last one."""
        line = self.until(b"\r\n")
        match = re.fullmatch(rb"([0-9a-f]+)(?:;[^\r\n]*)?\r\n", line)
        assert match, f"not a chunk size: {line!r}"
        size = int(match[1], 16)
        data = self.exactly(size)
        assert self.exactly(2) == b"\r\n"
        return data
