"""The load generator: non-blocking sockets under one epoll, the least work per byte.

It must not be what is measured, so its own CPU time is part of every result. It takes
keep-alive connections, HTTP/1.1 answers with a length or in chunks, and nothing else.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import monotonic, monotonic_ns

RECEIVE_BYTES = 65536
CONNECT_SECONDS = 5.0
_STAMP = b'"t='  # the text of every token of the fake engine begins so
_DONE = b"[DONE]"
_LAST_CHUNK = b"0\r\n\r\n"
_OK = b"HTTP/1.1 200"
# Longer than a stamp or the end of a stream; shorter than an event.
_TAIL_BYTES = 64


class Connection:
    """One keep-alive connection; subclasses read what comes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=CONNECT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.sent_ns = 0
        self.busy = False
        self.failed = False

    def send(self, request: bytes) -> None:
        """Send a small request: it fits the socket's buffer, or the connection has failed."""
        self.busy = True
        self.sent_ns = monotonic_ns()
        try:
            if self.socket.send(request) != len(request):
                self.fail()
        except OSError:
            self.fail()

    def readable(self) -> None:
        try:
            data = self.socket.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.feed(data, monotonic_ns())
        else:
            self.fail()

    def feed(self, data: bytes, now_ns: int) -> None:
        raise NotImplementedError

    def fail(self) -> None:
        self.busy = False
        self.failed = True

    def close(self) -> None:
        self.socket.close()


class Stream(Connection):
    """One streamed answer at a time, timed."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.delays_ns: list[int] = []
        self.last_tick_ns = 0
        self._begin()

    def _begin(self) -> None:
        self.head_ns = 0
        self.first_ns = 0
        self.tokens = 0
        self._tail = b""

    def send(self, request: bytes) -> None:
        self._begin()
        super().send(request)

    def feed(self, data: bytes, now_ns: int) -> None:
        if not self.head_ns:
            self.head_ns = now_ns
            if not data.startswith(_OK):
                self.fail()
                return
        text = self._tail + data
        rest = self._read_stamps(text, now_ns)
        if not self.first_ns and self.tokens:
            self.first_ns = now_ns
        self._tail = rest[-_TAIL_BYTES:]
        if text.endswith(_LAST_CHUNK) and _DONE in self._tail:
            self.busy = False

    def _read_stamps(self, text: bytes, now_ns: int) -> bytes:
        """Note the delay of every token in `text`; returns what follows the last one."""
        start = 0
        while (at := text.find(_STAMP, start)) >= 0:
            end = text.find(b" ", at)
            if end < 0:
                break
            self.last_tick_ns = int(text[at + len(_STAMP) : end])
            self.delays_ns.append(now_ns - self.last_tick_ns)
            self.tokens += 1
            start = end
        return text[start:]


class Asker(Connection):
    """Plain requests one after the other, as long as `next_request` gives one."""

    def __init__(self, port: int, next_request: Callable[[], bytes | None]) -> None:
        super().__init__(port)
        self.latencies_ns: list[int] = []
        self._next_request = next_request
        self._answer = b""

    def go_on(self) -> None:
        request = self._next_request()
        if request is None:
            self.busy = False
        else:
            self.send(request)

    def feed(self, data: bytes, now_ns: int) -> None:
        self._answer += data
        if not is_whole(self._answer):
            return
        if not self._answer.startswith(_OK):
            self.fail()
            return
        self._answer = b""
        self.latencies_ns.append(now_ns - self.sent_ns)
        self.go_on()


class Load:
    """Connections under one epoll."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self._connections = connections
        self._epoll = select.epoll()
        self._by_number = {one.socket.fileno(): one for one in connections}
        for number in self._by_number:
            self._epoll.register(number, select.EPOLLIN)

    def pump(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Read what comes; True as soon as `until` holds, False when the time is over."""
        end = monotonic() + seconds
        while not until():
            left = end - monotonic()
            if left <= 0:
                return False
            for number, _ in self._epoll.poll(min(left, 0.05)):
                connection = self._by_number[number]
                connection.readable()
                if connection.failed:
                    with suppress(OSError):
                        self._epoll.unregister(number)
        return True

    def idle(self) -> bool:
        """No answer is awaited."""
        return not any(one.busy for one in self._connections)

    def close(self) -> None:
        self._epoll.close()
        for connection in self._connections:
            connection.close()


def exchange(port: int, request: bytes, seconds: float) -> bytes | None:
    """One request on a connection of its own; None where no whole answer came in time."""
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), seconds) as one:
        return exchange_on(one, request)
    return None


def exchange_on(one: socket.socket, request: bytes) -> bytes:
    """One blocking request. Raises OSError where the answer does not come whole."""
    one.sendall(request)
    answer = b""
    while not is_whole(answer):
        data = one.recv(RECEIVE_BYTES)
        if not data:
            raise ConnectionError("closed before the end of the answer")
        answer += data
    return answer


def is_whole(answer: bytes) -> bool:
    """Has an answer come to its end? Bodies of the fake engine hold no empty chunk."""
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return len(body) >= int(line[15:])
    return body.endswith(_LAST_CHUNK)
