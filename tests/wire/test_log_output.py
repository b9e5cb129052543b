"""A stdout that takes no more lines, or none at all, costs lines and nothing else."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import Any, Self

import pytest

from tests.engine.service import PROJECT
from tests.fake_engine import FakeEngine
from tests.fork_server import SIDECAR
from tests.patience import PATIENCE
from tests.ports import free_ports
from tests.wire.client import CHAT, new_id, prompt
from tests.wire.service import Sidecar, until

DROPPED = "sidecar_log_lines_dropped_total"


class Writing(Sidecar):
    """A sidecar whose stdout is a descriptor of ours; its log has what it writes to stderr."""

    stderr_too = False
    """Whether stderr goes where stdout goes."""

    def __init__(self, folder: Path, engine: FakeEngine, stdout: int, **environ: str) -> None:
        super().__init__(folder, engine, **environ)
        self._stdout = stdout

    def start(self) -> Self:
        with self.log.open("wb") as stderr, os.fdopen(os.dup(self._stdout), "wb") as stdout:
            error = stdout if self.stderr_too else stderr
            if os.isatty(self._stdout):  # which Python asks as it starts
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "proxy"],
                    cwd=PROJECT,
                    env=self._environ,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=error,
                )
            else:
                self.process = SIDECAR.start((), self._environ, stdout, error=error)
        return self

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(PATIENCE)

    def is_served(self) -> None:
        """Requests are answered, more of them than the lines of a pipe."""
        for _ in range(150):
            assert self.ask(CHAT, prompt(CHAT)).status == 200
        assert self.client.get("/livez").status_code == 200


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Its two ends."""
    ends = os.pipe()
    yield ends
    for end in ends:
        with suppress(OSError):
            os.close(end)


def fill(end: int) -> None:
    """Write into a pipe until it takes no more, without changing the mode that others see."""
    again = os.open(f"/proc/self/fd/{end}", os.O_WRONLY | os.O_NONBLOCK)
    for size in (4096, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(again, b"\n" * size)
    os.close(again)


def read_all(end: int) -> list[dict[str, Any]]:
    """The lines until the other end is closed."""
    with os.fdopen(os.dup(end), "rb") as file:
        return [json.loads(line) for line in file if line.strip()]


def test_a_reader_that_has_stopped_stops_neither_requests_nor_the_end(
    shared_engine: FakeEngine, tmp_path: Path, pipe: tuple[int, int]
) -> None:
    shared_engine.reset()
    fill(pipe[1])
    with Writing(tmp_path, shared_engine, pipe[1]) as service:
        service.wait_until_ready()
        service.is_served()
        assert service.value(DROPPED) == 0, "they wait for the reader"
        assert service.stop() == 0


def test_a_named_pipe_that_nobody_reads_stops_neither_requests_nor_the_end(
    shared_engine: FakeEngine, tmp_path: Path
) -> None:
    shared_engine.reset()
    os.mkfifo(tmp_path / "pipe")
    end = os.open(tmp_path / "pipe", os.O_RDWR)
    fill(end)
    try:
        named = Writing(tmp_path, shared_engine, end)
        named.stderr_too = True
        with named as service:
            service.wait_until_ready()
            service.is_served()
            assert service.stop() == 0
    finally:
        os.close(end)


def test_a_drain_is_cut_by_a_second_signal_while_its_lines_wait(
    shared_engine: FakeEngine, tmp_path: Path, pipe: tuple[int, int]
) -> None:
    shared_engine.reset()
    fill(pipe[1])
    with Writing(tmp_path, shared_engine, pipe[1], DRAIN_SECONDS="600") as service:
        service.wait_until_ready()
        with service.connect() as client:
            service.wait_until_seen(client.ask(CHAT, prompt(CHAT), fake={"stall_at": 0}))
            service.process.send_signal(signal.SIGTERM)
            until(lambda: service.client.get("/readyz").status_code == 503, "a drain")
            assert service.stop() == 0


def test_a_reader_that_goes_on_gets_every_line_in_order(
    shared_engine: FakeEngine, tmp_path: Path, pipe: tuple[int, int]
) -> None:
    shared_engine.reset()
    reader, writer = pipe
    fill(writer)
    ids = [new_id() for _ in range(150)]
    with Writing(tmp_path, shared_engine, writer) as service:
        os.close(writer)
        service.wait_until_ready()
        for request_id in ids:
            service.ask(CHAT, prompt(CHAT), request_id=request_id)
        lines: list[dict[str, Any]] = []
        reading = Thread(target=lambda: lines.extend(read_all(reader)), daemon=True)
        reading.start()
        assert service.stop() == 0
        reading.join(PATIENCE)
    written = [line["request_id"] for line in lines if line["logger"] == "proxy.access"]
    assert [request_id for request_id in written if request_id in set(ids)] == ids
    assert lines[-1]["message"].startswith("stopped: ")


def test_a_reader_that_has_gone_costs_lines_that_are_counted(
    shared_engine: FakeEngine, tmp_path: Path, pipe: tuple[int, int]
) -> None:
    shared_engine.reset()
    reader, writer = pipe
    with Writing(tmp_path, shared_engine, writer) as service:
        service.wait_until_ready()
        os.close(reader)
        service.is_served()
        until(lambda: service.value(DROPPED) >= 150, "lines that are counted")
        assert service.stop() == 0
        assert service.text() == "", "no traceback"


def test_a_full_disk_costs_lines_that_are_counted_and_a_log_file_tells_of_it(
    shared_engine: FakeEngine, tmp_path: Path
) -> None:
    shared_engine.reset()
    file = tmp_path / "sidecar.log"
    full = os.open("/dev/full", os.O_WRONLY)
    with Writing(tmp_path, shared_engine, full, LOG_FILE=str(file)) as service:
        os.close(full)
        service.wait_until_ready()
        service.is_served()
        until(lambda: service.value(DROPPED) >= 150, "lines that are counted")
        assert service.stop() == 0
        assert service.text() == "", "no traceback"
    messages = [json.loads(line)["message"] for line in file.read_text().splitlines()]
    assert sum("stdout cannot be written: [Errno 28]" in message for message in messages) == 1
    assert messages[-1].startswith("stopped: ")


@pytest.mark.parametrize(("closed", "has_file"), [(">&-", True), ("<&- >&- 2>&-", False)])
def test_a_stdout_that_is_closed_is_no_trouble(
    shared_engine: FakeEngine, tmp_path: Path, closed: str, has_file: bool
) -> None:
    shared_engine.reset()
    file = tmp_path / "sidecar.log"
    environ = {"LOG_FILE": str(file)} if has_file else {"LOG_FORMAT": ""}
    service = Sidecar(tmp_path, shared_engine, **environ)
    service._command = ["sh", "-c", f"exec {sys.executable} -m proxy {closed}"]
    with service:
        service.wait_until_ready()
        assert service.ask(CHAT, prompt(CHAT)).status == 200
        service.process.terminate()
        assert service.process.wait(PATIENCE) == 0
        assert service.text() == ""
    if has_file:
        assert '"message":"POST /v1/chat/completions 200 ok"' in file.read_text()


def test_a_check_whose_streams_are_closed_has_its_exit_code(shared_engine: FakeEngine) -> None:
    shared_engine.reset()
    command = f"exec {sys.executable} -m proxy check <&- >&- 2>&-"
    environ = {**os.environ, "UPSTREAM_URL": shared_engine.url, "PORT": str(free_ports(1)[0])}
    done = subprocess.run(["sh", "-c", command], cwd=PROJECT, env=environ, check=False)
    assert done.returncode == 0


class Shown:
    """What a terminal shows, read until nobody writes to it any more."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._text = b""
        self._reading = Thread(target=self._read, daemon=True)
        self._reading.start()

    def _read(self) -> None:
        with suppress(OSError):  # it is how a terminal says that nobody writes any more
            while data := os.read(self._terminal, 65536):
                self._text += data

    def text(self) -> bytes:
        self._reading.join(PATIENCE)
        os.close(self._terminal)
        return self._text


@pytest.mark.parametrize("no_color", ["", "1"])
def test_a_terminal_is_shown_text_that_begins_with_the_addresses(
    shared_engine: FakeEngine, tmp_path: Path, no_color: str
) -> None:
    shared_engine.reset()
    ours, theirs = pty.openpty()
    environ = {"LOG_FORMAT": "", "TERM": "xterm", "NO_COLOR": no_color}
    with Writing(tmp_path, shared_engine, theirs, **environ) as service:
        os.close(theirs)
        shown = Shown(ours)
        service.wait_until_ready()
        assert service.stop() == 0
    lines = shown.text().decode().splitlines()
    assert [line.partition(" INFO    proxy          ")[2] for line in lines[:3]] == [
        f"API        {service.url}/v1",
        f"dashboard  {service.url}/dashboard",
        f"metrics    {service.url}/metrics",
    ]
    assert any("\x1b[2m" in line for line in lines) is (no_color == "")


def test_a_pipe_gets_json_unasked(shared_engine: FakeEngine, tmp_path: Path) -> None:
    shared_engine.reset()
    with Sidecar(tmp_path, shared_engine, LOG_FORMAT="") as service:
        service.wait_until_ready()
        until(service.lines, "the first lines")
        assert service.lines()[0]["message"] == f"API        {service.url}/v1"


def test_a_terminal_that_is_stopped_stops_nothing_and_goes_on_later(
    shared_engine: FakeEngine, tmp_path: Path
) -> None:
    shared_engine.reset()
    ours, theirs = pty.openpty()
    with Writing(tmp_path, shared_engine, theirs, LOG_FORMAT="text") as service:
        os.close(theirs)
        service.wait_until_ready()
        os.write(ours, b"\x13")  # Ctrl-S
        service.is_served()
        os.write(ours, b"\x11")  # Ctrl-Q
        shown = Shown(ours)
        assert service.stop() == 0
    text = shown.text()
    assert text.count(b" INFO    proxy.access   POST /v1/chat/completions 200 ok ") == 150
    assert b"stopped: 0 requests finished" in text


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["--help", "models"])
def test_what_a_command_cannot_print_ends_it_with_1(command: str, unbuffered: str) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "proxy", command],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=PROJECT,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, b""), "no traceback"


@pytest.mark.parametrize(
    ("arguments", "port", "unbuffered"), [(["nonsense"], "8000", ""), ([], "none", "1")]
)
def test_a_mistake_that_cannot_be_told_keeps_its_exit_code(
    arguments: list[str], port: str, unbuffered: str
) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "proxy", *arguments],
            stdout=full,
            stderr=full,
            cwd=PROJECT,
            env={**os.environ, "PORT": port, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert done.returncode == 2
