"""Where log lines go; nothing ever waits for it.

The lines of one turn of the event loop leave in one write. A pipe, a socket and a terminal get
them at once, as far as they take them at once; what they do not take, and all that goes into a
file (a disk may hang), is written by a daemon thread. Waking one costs five times as much as
writing into a pipe, so it lets lines come together for a moment.

What is too much for a target's queue, and what it refuses, is dropped and counted. A line reports
it as soon as the target takes lines again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import stat
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache, partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from time import monotonic, sleep
from typing import Protocol

MAX_PENDING_BYTES = 4 * 1024 * 1024
# How long a thread that was woken lets lines come together.
_GATHER_SECONDS = 0.02
_POLL_SECONDS = 0.005
_REPORT_AGAIN_SECONDS = 60.0

_log = logging.getLogger("proxy.log")


@dataclass(frozen=True, slots=True)
class Instant:
    """Writes what is taken at once."""

    # How many bytes were written. Raises BlockingIOError where none can be now.
    write: Callable[[bytes], int]
    close: Callable[[], None]


class Writer(Protocol):
    """Writes lines for a thread that may wait."""

    def write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """How many lines were lost, and why."""

    @property
    def inside_line(self) -> bool:
        """Whether the rest of a line is still to be written."""


class Descriptor:
    """An open file that lines are written to, waiting where that has to be.

    Of a line that was written in part the rest is kept, and goes before the next one.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._rest = b""

    @property
    def inside_line(self) -> bool:
        return bool(self._rest)

    def write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        data = self._rest + b"".join(lines)
        view, written = memoryview(data), 0
        try:
            while written < len(data):
                try:
                    written += os.write(self.fd, view[written:])
                except BlockingIOError:  # another process that shares it has made it so
                    select.select([], [self.fd], [])
        except OSError as error:
            whole = data[written - 1] == ord("\n") if written else not self._rest
            self._rest = b"" if whole else data[written : data.index(b"\n", written) + 1]
            return data.count(b"\n", written) - (not whole), error
        self._rest = b""
        return 0, None


class Target:
    """One place for lines."""

    def __init__(
        self,
        name: str,
        writer: Writer,
        instant: Instant | None,
        *,
        reports_errors: bool,
        gather_seconds: float = _GATHER_SECONDS,
    ) -> None:
        """`reports_errors`: there is another target, where a line can report what is wrong here.
        `gather_seconds`: for how long the thread lets lines come together."""
        self._name = name
        self._writer = writer
        self._instant = instant
        self._reports_errors = reports_errors
        self._gather_seconds = gather_seconds
        self._reported_error_at: float | None = None
        self._reported_drops = 0
        self._is_full = False
        self._is_reporting = False
        # One thread changes each number: the caller's those with `put`, ours the others.
        self._put_bytes = self._done_bytes = 0
        self._not_put_lines = self._lost_lines = 0
        self._queue: SimpleQueue[Sequence[bytes] | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name=f"log to {name}", daemon=True)
        self._thread.start()

    @property
    def dropped_lines(self) -> int:
        return self._not_put_lines + self._lost_lines

    @property
    def pending_bytes(self) -> int:
        """What the thread has not written yet."""
        return self._put_bytes - self._done_bytes

    @property
    def is_done(self) -> bool:
        """Whether all is written, and all reported that was lost."""
        return not (self.pending_bytes or self._is_reporting)

    def put(self, lines: Sequence[bytes]) -> None:
        """Have lines written. One call at a time; it never waits."""
        pending = self.pending_bytes
        if self._instant is not None and not pending and not self._writer.inside_line:
            data = lines[0] if len(lines) == 1 else b"".join(lines)
            written = 0
            with suppress(OSError):  # the thread will get the same error, and report it
                written = self._instant.write(data)
            if written == len(data):
                return
            lines = (data[written:],)
        size = sum(map(len, lines))
        # Once there were too many, the queue is emptied first: else every other line would be lost.
        self._is_full = pending > 0 and (self._is_full or pending + size > MAX_PENDING_BYTES)
        if self._is_full:
            self._not_put_lines += sum(line.count(b"\n") for line in lines)
        else:
            self._put_bytes += size
            self._queue.put(lines)

    def close(self) -> None:
        """End the thread, once it has written what it has got."""
        self._queue.put(None)
        if self._instant is not None:
            self._instant.close()
            self._instant = None

    def _run(self) -> None:
        while (lines := self._queue.get()) is not None:
            sleep(self._gather_seconds)
            batch = [*lines]
            with suppress(Empty):
                while (more := self._queue.get_nowait()) is not None:
                    batch += more
                self._queue.put(None)  # no more: it is for the next turn
            try:
                lost, error = self._writer.write(batch)
            except Exception as fault:  # of a library's: later lines may do
                lost, error = sum(line.count(b"\n") for line in batch), OSError(repr(fault))
            self._lost_lines += lost
            self._is_reporting = True
            self._done_bytes += sum(map(len, batch))
            if error is not None:
                # Once a minute at most. The line about it comes here as well, and must end there.
                now, before = monotonic(), self._reported_error_at
                if before is None or now - before >= _REPORT_AGAIN_SECONDS:
                    self._reported_error_at = now
                    if self._reports_errors:
                        _log.error("%s cannot be written: %s", self._name, error)
            elif not self.pending_bytes and (drops := self.dropped_lines - self._reported_drops):
                self._reported_drops += drops
                _log.error("%d log lines were dropped: %s did not take them", drops, self._name)
            self._is_reporting = False


class Output:
    """All targets of this process's lines. Any thread may write, also out of a finalizer."""

    def __init__(self, targets: Iterable[Target], *, by_turns: bool) -> None:
        """`by_turns`: the lines of one turn of the event loop are written together."""
        self._targets = tuple(targets)
        self._by_turns = by_turns
        self._lines: deque[bytes] = deque()
        self._lock = Lock()
        self._loop: asyncio.AbstractEventLoop | None = None  # that will flush

    @property
    def dropped_lines(self) -> int:
        return sum(target.dropped_lines for target in self._targets)

    def write(self, line: bytes) -> None:
        """Write a line, which ends with its newline."""
        self._lines.append(line)
        if self._by_turns:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:
                pass
            else:
                if self._loop is not loop:
                    self._loop = loop
                    loop.call_soon(self._end_turn)
                return
        self._flush()

    def flush(self, seconds: float) -> None:
        """Wait until all lines are written, but no longer than that."""
        end = monotonic() + seconds
        self._flush()
        while not all(target.is_done for target in self._targets) and monotonic() < end:
            sleep(_POLL_SECONDS)

    def close(self) -> None:
        self._flush()
        for target in self._targets:
            target.close()

    def _end_turn(self) -> None:
        self._loop = None
        self._flush()

    def _flush(self) -> None:
        # The thread that holds the lock takes the lines of those that do not get it. So no thread
        # waits for another, nor a finalizer in the middle of this for its own.
        while self._lines and self._lock.acquire(blocking=False):
            try:
                lines = [self._lines.popleft() for _ in range(len(self._lines))]
                for target in self._targets:
                    target.put(lines)
            finally:
                self._lock.release()


class OutputHandler(logging.Handler):
    """Formats records for an output. That never waits, so it needs no lock as other handlers do."""

    def __init__(
        self, output: Output, formatter: logging.Formatter, *, writes_json: bool = True
    ) -> None:
        super().__init__()
        self.output = output
        self.writes_json = writes_json
        self.setFormatter(formatter)

    def handle(self, record: logging.LogRecord) -> bool:
        if wanted := bool(self.filter(record)):
            self.emit(record)
        return wanted

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + "\n"
        except Exception as error:
            _log.error("a line of logger %s cannot be written: %r", record.name, error)
        else:
            # An odd character must not cost the line it is in.
            self.output.write(line.encode("utf-8", "replace"))

    def close(self) -> None:
        self.output.close()
        super().close()


def timestamp(seconds: float) -> str:
    """Of the clock on the wall: `2026-11-28T10:44:16.318617+00:00`."""
    whole = int(seconds)
    return f"{_to_the_second(whole)}.{int((seconds - whole) * 1_000_000):06}+00:00"


@lru_cache(maxsize=2)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]


def instant(fd: int) -> Instant | None:
    """How to write there without waiting; None where that cannot be, and the thread has to."""
    mode = os.fstat(fd).st_mode
    with suppress(OSError):  # not allowed: another user has opened it before the container's
        if stat.S_ISSOCK(mode):
            # Asked each time not to wait.
            peer = socket.socket(fileno=os.dup(fd))
            return Instant(lambda data: peer.send(data, socket.MSG_DONTWAIT), peer.close)
        if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
            # Opened once more: the mode of what others share is not touched.
            own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
            return Instant(partial(os.write, own), partial(os.close, own))
    return None
