"""What a client sent and what it got, as h11 reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import h11

from tests.fuzz.app import Seen

_MOST_BYTES = 1 << 24


@dataclass
class Sent:
    """The requests in some bytes."""

    requests: list[Seen] = field(default_factory=list)
    broken: bool = False
    """What follows the last request is not HTTP to h11, which is strict."""
    last: bool = False
    """The last request asked for the end of the connection, or could not have more behind it."""
    between: bool = False
    """The bytes end where the next request may begin."""


@dataclass
class Answer:
    """One answer."""

    status: int = 0
    body: bytes = b""
    whole: bool = False
    closes: bool = False


def requests_in(data: bytes) -> Sent:
    """Each is answered as soon as it is whole, upgrades are declined."""
    sent = Sent()
    server = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_BYTES)
    if data:  # nothing would mean the end
        server.receive_data(data)
    try:
        while not sent.last:
            event = server.next_event()
            if event is h11.NEED_DATA:
                sent.between = server.their_state is h11.IDLE and not server.trailing_data[0]
                break
            _note(event, server, sent)
    except h11.RemoteProtocolError:
        sent.broken = True
    return sent


def _note(event: Any, server: h11.Connection, sent: Sent) -> None:
    match event:
        case h11.Request():
            version = event.http_version.decode()
            method, headers = event.method.decode(), [*event.headers]
            sent.requests.append(Seen(method, event.target, version, headers))
        case h11.Data():
            sent.requests[-1].body += bytes(event.data)
        case h11.EndOfMessage():
            sent.requests[-1].whole = True
            is_connect = sent.requests[-1].method == "CONNECT"
            server.send(h11.Response(status_code=400 if is_connect else 200, headers=[_NOTHING]))
            server.send(h11.EndOfMessage())
            if server.our_state is h11.DONE:
                server.start_next_cycle()
            else:
                sent.last = True


_NOTHING = (b"content-length", b"0")


def answers_in(data: bytes, requests: Sequence[Seen], *, closed: bool) -> list[Answer]:
    """The answers to `requests`, and what more there is.

    Raises:
        h11.RemoteProtocolError: they are not well-formed.
    """
    answers: list[Answer] = []
    while data:
        number = len(answers)
        seen = requests[number] if number < len(requests) else Seen("GET", b"", "1.1", [])
        client = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_BYTES)
        client.send(h11.Request(method=seen.method or "GET", target=b"/", headers=[(b"host", b"")]))
        client.send(h11.EndOfMessage())
        client.receive_data(data)
        answer = Answer()
        answers.append(answer)
        data = _read(client, answer, seen, closed=closed)
    return answers


def _read(client: h11.Connection, answer: Answer, seen: Seen, *, closed: bool) -> bytes:
    """Read one answer; returns what is behind it."""
    until_closed = False
    while True:
        match client.next_event():
            case h11.NEED_DATA if closed and until_closed:
                client.receive_data(b"")
                until_closed = False
            case h11.NEED_DATA:
                return b""
            case h11.InformationalResponse() as interim:
                assert interim.status_code == 100
                assert seen.http_version == "1.1"
            case h11.Response() as head:
                names = [name for name, _ in head.headers]
                answer.status = head.status_code
                answer.closes = (b"connection", b"close") in head.headers
                assert seen.http_version == "1.1" or b"transfer-encoding" not in names
                assert names.count(b"content-length") + names.count(b"transfer-encoding") < 2
                until_closed = not {b"content-length", b"transfer-encoding"} & {*names}
            case h11.Data() as data:
                answer.body += bytes(data.data)
            case h11.EndOfMessage():
                answer.whole = True
                return bytes(client.trailing_data[0])
