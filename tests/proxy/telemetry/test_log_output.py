"""Lines on their way: together, in order, never waited for, and counted where they are lost."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from threading import Event, Thread

import pytest

from proxy.telemetry import log_output
from proxy.telemetry.log_output import Descriptor, Instant, Output, Target, instant
from tests.patience import PATIENCE


class Slow:
    """A file that takes lines when it is let."""

    inside_line = False

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.taken = Event()
        self.may_go_on = Event()
        self.error: OSError | None = None

    def write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        self.taken.set()
        assert self.may_go_on.wait(PATIENCE)
        if self.error is not None:
            return len(lines), self.error
        self.lines += lines
        return 0, None


class Pipe:
    """Takes so many bytes at a time."""

    def __init__(self, room: int = 10_000) -> None:
        self.room = room
        self.writes: list[bytes] = []
        self.instant = Instant(self.write, lambda: None)

    def write(self, data: bytes) -> int:
        self.writes.append(data[: self.room])
        return min(len(data), self.room)


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.may_go_on.set()


Reported = Callable[[], list[str]]


@pytest.fixture
def reported(caplog: pytest.LogCaptureFixture) -> Reported:
    return lambda: [record.getMessage() for record in caplog.records if record.name == "proxy.log"]


def lines_of(count: int, start: int = 0) -> list[bytes]:
    return [b"line %d\n" % number for number in range(start, start + count)]


async def test_the_lines_of_a_turn_leave_in_one_write() -> None:
    pipe = Pipe()
    target = Target("pipe", Slow(), pipe.instant, reports_errors=False)
    output = Output([target], by_turns=True)
    for turn in range(3):
        for line in lines_of(4, 4 * turn):
            output.write(line)
        assert len(pipe.writes) == turn, "not before the turn is over"
        await asyncio.sleep(0)
    assert pipe.writes == [b"".join(lines_of(4, 4 * turn)) for turn in range(3)]
    output.close()


def test_without_a_loop_a_line_leaves_at_once() -> None:
    pipe = Pipe()
    output = Output([Target("pipe", Slow(), pipe.instant, reports_errors=False)], by_turns=True)
    for line in lines_of(3):
        output.write(line)
    assert pipe.writes == lines_of(3)
    output.close()


async def test_what_was_left_of_a_loop_that_has_ended_is_not_lost() -> None:
    pipe = Pipe()
    output = Output([Target("pipe", Slow(), pipe.instant, reports_errors=False)], by_turns=True)
    other = asyncio.new_event_loop()

    async def last_words() -> None:
        other.call_soon(other.stop)
        output.write(b"last\n")

    with suppress(RuntimeError):
        await asyncio.to_thread(other.run_until_complete, last_words())
    other.close()
    output.flush(PATIENCE)
    output.write(b"first\n")
    await asyncio.sleep(0)
    assert b"".join(pipe.writes) == b"last\nfirst\n"
    output.close()


def test_what_is_not_taken_at_once_is_the_threads_and_the_order_stays(slow: Slow) -> None:
    pipe = Pipe(room=10)
    target = Target("pipe", slow, pipe.instant, reports_errors=False)
    target.put(lines_of(3))
    assert slow.taken.wait(PATIENCE)
    target.put(lines_of(2, 3))
    slow.may_go_on.set()
    Output([target], by_turns=False).flush(PATIENCE)
    assert b"".join(pipe.writes) + b"".join(slow.lines) == b"".join(lines_of(5))
    assert target.dropped_lines == 0
    target.close()


def test_lines_over_the_bound_are_dropped_counted_and_told_when_there_is_room(
    slow: Slow, reported: Reported, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_output, "MAX_PENDING_BYTES", 100)
    target = Target("stdout", slow, None, reports_errors=True)
    output = Output([target], by_turns=False)
    for line in lines_of(50):
        output.write(line)
    taken = 100 // len(b"line 0\n")
    assert target.pending_bytes <= 100
    assert 0 < target.dropped_lines < 50
    assert reported() == []
    slow.may_go_on.set()
    output.flush(PATIENCE)
    dropped = 50 - len(slow.lines)
    assert slow.lines == lines_of(50)[: 50 - dropped]
    assert taken - 2 <= len(slow.lines) <= taken
    assert target.dropped_lines == dropped
    assert reported() == [f"{dropped} log lines were dropped: stdout did not take them"]
    output.write(b"later\n")
    output.flush(PATIENCE)
    assert slow.lines[-1] == b"later\n"
    assert len(reported()) == 1
    output.close()


def test_a_fault_of_a_writer_costs_the_lines_that_it_had_and_no_later_ones(
    slow: Slow, reported: Reported
) -> None:
    """As of gRPC, where a header's name ends in `-bin` and its value is text."""

    def fail(lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        del slow.write
        raise TypeError("expected bytes")

    slow.write = fail  # type: ignore[method-assign]
    slow.may_go_on.set()
    output = Output([Target("collector", slow, None, reports_errors=True)], by_turns=False)
    for word in ("lost", "kept"):
        output.write(f"{word}\n".encode())
        output.flush(PATIENCE)
    assert slow.lines == [b"kept\n"]
    assert output.dropped_lines == 1
    assert "collector cannot be written: TypeError('expected bytes')" in reported()
    output.close()


def test_the_end_waits_no_longer_than_it_was_told(slow: Slow) -> None:
    output = Output([Target("stdout", slow, None, reports_errors=True)], by_turns=False)
    output.write(b"line\n")
    output.flush(0.01)
    assert slow.lines == []
    slow.may_go_on.set()
    output.flush(PATIENCE)
    assert slow.lines == [b"line\n"]
    output.close()


@pytest.mark.parametrize("by_turns", [True, False])
def test_many_threads_lose_no_line_and_each_keeps_its_order(by_turns: bool) -> None:
    pipe = Pipe()
    output = Output([Target("pipe", Slow(), pipe.instant, reports_errors=False)], by_turns=by_turns)

    def write(name: int) -> None:
        for number in range(500):
            output.write(b"%d %d\n" % (name, number))

    async def write_in_loop() -> None:
        for number in range(500):
            output.write(b"9 %d\n" % number)
            await asyncio.sleep(0)

    threads = [Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(write_in_loop())
    for thread in threads:
        thread.join()
    output.flush(PATIENCE)
    lines = b"".join(pipe.writes).splitlines()
    for name in (0, 1, 2, 3, 9):
        numbers = [int(line.split()[1]) for line in lines if line.startswith(b"%d " % name)]
        assert numbers == list(range(500))
    output.close()


def test_a_finalizer_that_logs_in_the_middle_of_a_write_blocks_nothing() -> None:
    class Logs:
        def __del__(self) -> None:
            output.write(b"from a finalizer\n")

    class Collects(Pipe):
        def write(self, data: bytes) -> int:
            if not self.writes:
                cycle: list[object] = [Logs()]
                cycle.append(cycle)
                del cycle
                gc.collect()
            return super().write(data)

    pipe = Collects()
    output = Output([Target("pipe", Slow(), pipe.instant, reports_errors=False)], by_turns=False)
    output.write(b"a line\n")
    assert pipe.writes == [b"a line\n", b"from a finalizer\n"]
    output.close()


# Descriptors ----------------------------------------------------------------------------------


def fill(target: Instant) -> None:
    """Write until it takes no more."""
    with suppress(BlockingIOError):
        while True:
            assert target.write(b"x" * 1000) > 0


def test_the_mode_of_a_pipe_that_others_share_is_not_changed() -> None:
    reader, writer = os.pipe()
    pipe = instant(writer)
    assert pipe is not None
    fill(pipe)
    assert os.get_blocking(writer)
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        pipe.write(b"x")
    pipe.close()
    os.close(writer)


def test_a_socket_is_written_without_waiting_and_keeps_its_mode() -> None:
    one, other = socket.socketpair()
    connection = instant(one.fileno())
    assert connection is not None
    fill(connection)
    assert os.get_blocking(one.fileno())
    connection.close()
    one.close()
    other.close()


def test_a_file_is_the_threads(tmp_path: object) -> None:
    descriptor = os.open(f"{tmp_path}/file", os.O_WRONLY | os.O_CREAT)
    assert stat.S_ISREG(os.fstat(descriptor).st_mode)
    assert instant(descriptor) is None
    os.close(descriptor)


def test_a_pipe_that_may_not_be_opened_again_is_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    reader, writer = os.pipe()
    monkeypatch.setattr(os, "open", refuse)
    assert instant(writer) is None
    monkeypatch.undo()
    target = Target("stdout", Descriptor(writer), None, reports_errors=False)
    target.put(lines_of(3))
    assert b"".join(lines_of(3)) == os.read(reader, 1000)
    target.close()
    os.close(reader)


def test_a_descriptor_that_somebody_made_non_blocking_loses_nothing() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    lines, read = lines_of(20_000), bytearray()

    def read_all() -> None:
        while len(read) < sum(map(len, lines)):
            read.extend(os.read(reader, 4096))

    reading = Thread(target=read_all, daemon=True)
    reading.start()
    assert Descriptor(writer).write(lines) == (0, None)
    reading.join(PATIENCE)
    assert bytes(read) == b"".join(lines)
    os.close(reader)
    os.close(writer)


def test_a_line_that_cannot_be_formatted_is_told_in_words(caplog: pytest.LogCaptureFixture) -> None:
    from proxy.telemetry.log_output import OutputHandler
    from proxy.telemetry.logs import JsonFormatter

    target = Target("stdout", Slow(), Pipe().instant, reports_errors=False)
    handler = OutputHandler(Output([target], by_turns=False), JsonFormatter())
    handler.handle(logging.LogRecord("vllm", 20, "", 0, "%d", ("no number",), None))
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("a line of logger vllm cannot be written: TypeError")
    handler.close()
