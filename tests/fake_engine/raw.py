"""Raw-socket requests: what was written and what came back, byte for byte."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from typing import Any

from tests.patience import PATIENCE

from . import FakeEngine, x_fake

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
MESSAGES, RESPONSES = "/v1/messages", "/v1/responses"
HI = {"messages": [{"role": "user", "content": "hi"}]}
STREAM = {"stream": True}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def request(path: str, body: Any = None, *, method: str = "POST", **headers: str) -> bytes:
    """One request's bytes. Keyword arguments are headers, `_` for `-`."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Host": "x", "Content-Type": "application/json", "Content-Length": str(len(data))}
    fields |= {name.replace("_", "-"): value for name, value in headers.items()}
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + data


def dial(engine: FakeEngine) -> socket.socket:
    """A connection to the engine."""
    connection = socket.create_connection(("127.0.0.1", engine.port))
    connection.settimeout(PATIENCE)
    return connection


def read_all(connection: socket.socket, pieces: list[bytes] | None = None) -> bytes:
    """Everything until the end; `<RST>` in place of a reset."""
    pieces = [] if pieces is None else pieces
    with contextlib.closing(connection):
        try:
            while data := connection.recv(65536):
                pieces.append(data)
        except ConnectionResetError:
            pieces.append(b"<RST>")
    return b"".join(pieces)


def read_until(connection: socket.socket, words: bytes) -> None:
    """What comes until these have come."""
    answer = b""
    while words not in answer:
        more = connection.recv(65536)
        assert more, answer
        answer += more


def read_one(connection: socket.socket) -> bytes:
    """One answer with a content-length; the connection stays open."""
    answer = b""
    while data := connection.recv(65536):
        answer += data
        head, end, body = answer.partition(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head)
        if end and length is not None and len(body) >= int(length[1]):
            break
    return answer


def say(
    engine: FakeEngine, path: str, body: Any = None, /, *, method: str = "POST", **fake: Any
) -> bytes:
    """One request on a connection of its own; all that came back."""
    connection = dial(engine)
    headers = {"Connection": "close"} | (x_fake(**fake) if fake else {})
    connection.sendall(request(path, body, method=method, **headers))
    return read_all(connection)


def unchunked(answer: bytes) -> bytes:
    """The body of an answer, chunked encoding removed."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head:
        return rest
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size.partition(b";")[0], 16)
        if not length:
            return body
        body, rest = body + rest[:length], rest[length + 2 :]


def status(answer: bytes) -> int:
    """The status code of an answer."""
    return int(answer.split(b" ", 2)[1])
