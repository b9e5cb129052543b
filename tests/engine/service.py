"""The sidecar as a user starts it: a process, its output in a file, its tree of processes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

from proxy.settings import variables
from tests.fork_server import SIDECAR, Process
from tests.log_schema import check_lines
from tests.patience import PATIENCE
from tests.ports import free_ports

PROJECT = Path(__file__).parents[2]
START = PROJECT / "scripts" / "start.sh"
# As `python3 -m proxy`, at a fifth of its cost: for tests of what comes after its start.
FORKED = ("fork", "proxy")
POLL_SECONDS = 0.05
_UNDECLARED = "undeclared transition: "
_NOT_PASSED_ON = {name for names in variables().values() for name in names}

Line = dict[str, Any]


class Running(NamedTuple):
    """One process: its number may be given out again, its start time says whether it was."""

    pid: int
    started: int


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Fails with `what` where the condition does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(POLL_SECONDS)


def below(pid: int) -> set[Running]:
    """Every living process below `pid`."""
    parents = dict(_parents())
    found, last = set[Running](), {pid}
    while last:
        last = {each.pid for each, parent in parents.items() if parent in last}
        found |= {each for each in parents if each.pid in last}
    return found


def alive(processes: Iterable[Running]) -> set[Running]:
    """Those that still run; one that only waits to be collected does not."""
    return set(processes) & {each for each, _ in _parents()}


def command_line(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return ""


def _parents() -> Iterator[tuple[Running, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                words = (entry / "stat").read_text().rpartition(")")[2].split()
                if words[0] not in "ZX":
                    yield Running(int(entry.name), int(words[19])), int(words[1])


class Service:
    """A sidecar with ports of its own: `with Service(folder, MODEL_NAME="...") as service:`.

    Everything it has started is gone when the block is left.
    """

    def __init__(
        self, folder: Path, command: Sequence[str] = (str(START),), **environ: str
    ) -> None:
        self.log = folder / "service.log"
        self.home = folder / "huggingface"
        self.port, self.upstream_port, _ = free_ports(3)  # a second model has the next one
        self._command = command
        self._environ = {
            **{name: value for name, value in os.environ.items() if name not in _NOT_PASSED_ON},
            "PORT": str(self.port),
            "UPSTREAM_PORT": str(self.upstream_port),
            "HF_HOME": str(self.home),
            "LOG_FORMAT": "json",
            **environ,
        }
        self.process: Process
        self.started = 0.0
        self._seen: set[Running] = set()
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def engine_url(self) -> str:
        return f"http://127.0.0.1:{self.upstream_port}"

    def start(self) -> Self:
        self.started = time.monotonic()
        with self.log.open("wb") as output:
            if self._command is FORKED:
                self.process = SIDECAR.start((), self._environ, output)
                return self
            self.process = subprocess.Popen(
                list(self._command),
                cwd=PROJECT,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return self

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.tree()
        self.client.close()
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        self.process.wait()
        for each in alive(self._seen):
            with suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)
        if kind is None:
            undeclared = [line for line in self.text().splitlines() if _UNDECLARED in line]
            assert not undeclared, "missing in proxy/engine/transitions.py"
            check_lines(self.lines())
            escaped = [line for line in self.lines("asyncio") if "exc_info" in line]
            assert not escaped, "an exception that only the event loop has caught"

    # What it says

    def text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def lines(self, logger: str = "") -> list[Line]:
        """The JSON lines so far, or those of one logger."""
        whole = [text for text in self.text().splitlines(keepends=True) if text.endswith("\n")]
        parsed: list[Line] = [json.loads(text) for text in whole if text.startswith("{")]
        return [line for line in parsed if not logger or line["logger"] == logger]

    def phases(self) -> list[str]:
        """The phases entered, in order. The line of one may come after the health page has it."""
        return [line["phase"] for line in self.lines("proxy.engine") if "phase_before" in line]

    def phases_until(self, last: str) -> list[str]:
        """The same once the newest is `last`."""
        wait_until(lambda: self.phases()[-1:] == [last], PATIENCE, f"a line of {last}")
        return self.phases()

    def access(self, request_id: str) -> Line:
        """The one line of a request; it is written after the last byte is out."""

        def found() -> list[Line]:
            lines = self.lines("proxy.access")
            return [line for line in lines if line["request_id"] == request_id]

        wait_until(lambda: bool(found()), PATIENCE, f"a line for request {request_id}")
        (line,) = found()
        return line

    def access_lines(self) -> list[Line]:
        """Those of all requests so far, once none runs and each has its line."""

        def lines() -> list[Line]:
            return self.lines("proxy.access")

        def is_whole() -> bool:
            ended = self.metric("sidecar_requests_total")
            return self.metric("sidecar_requests_in_flight") == 0 and ended == len(lines())

        wait_until(is_whole, PATIENCE, "a line for each request")
        return lines()

    def health(self) -> Mapping[str, Any]:
        health: dict[str, Any] = self.client.get("/health").json()
        return health

    def metric(self, name: str, page: str = "/metrics", **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        text = self.client.get(page).text
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    # What the system knows of it

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def memory_mib(self, name: str = "VmRSS") -> float:
        """`VmRSS` now, or `VmHWM`: the most there was."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{name}:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]

    # What it does

    def listens(self) -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def wait_until_listening(self, seconds: float = PATIENCE) -> None:
        """Wait until it accepts a connection."""
        wait_until(self.listens, seconds, f"a listener\n{self.text()}")

    def wait_for(self, phase: str, seconds: float) -> None:
        """Wait until the health page names a phase."""
        self.wait_until_listening()
        wait_until(
            lambda: self.health()["phase"] == phase, seconds, f"{phase}\n{self.text()[-4000:]}"
        )

    def tree(self) -> set[Running]:
        """Every process below it now; all that were ever seen are ended at the end."""
        found = below(self.process.pid)
        self._seen |= found
        return found

    def find(self, words: str) -> int:
        """The pid of the one process below it whose command line begins with `words`."""
        (pid,) = (each.pid for each in self.tree() if command_line(each.pid).startswith(words))
        return pid

    def kill(self, pid: int) -> None:
        """End a process below it at once; returns when its sockets are closed."""
        killed = {each for each in self.tree() if each.pid == pid}
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not alive(killed), PATIENCE, f"the end of process {pid}")

    def terminate(self) -> None:
        self.tree()
        self.process.terminate()

    def exit_code(self, seconds: float = PATIENCE) -> int:
        return self.process.wait(seconds)

    def assert_nothing_is_left(self, seconds: float = PATIENCE) -> None:
        """Of everything seen below it so far nothing runs any more; with 0, as of now."""
        wait_until(
            lambda: not alive(self._seen),
            seconds,
            f"an end of {[command_line(each.pid) for each in alive(self._seen)]}",
        )
