"""One run: everything is started once, then measured in turn, round after round.

A proxy that is not being measured is stopped (SIGSTOP), so that it takes no CPU. Memory is
read from a process started for it, since what earlier workloads left behind would count.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep

from bench import bodies, loads
from bench.client import exchange
from bench.figures import Figures
from bench.process import Child, free_port, running, wait_for_port
from bench.requests import short_request
from bench.size import TICK_MS, Size, Target
from bench.subjects import REPOSITORY, Address, Subject

SLOW_TICK_MS = 1000
_START_SECONDS = 60.0
_WAKE_SECONDS = 5.0
_ATTEMPT_SECONDS = 5.0


@dataclass(frozen=True)
class Cores:
    """The proxy has one to itself where the machine has two."""

    proxy: int
    others: int


@dataclass
class Measured:
    """One subject in one round: workload -> figures."""

    subject: str
    round: int
    figures: dict[str, Figures] = field(default_factory=dict)


@dataclass(frozen=True)
class Engine:
    """A fake engine and where it listens."""

    child: Child
    port: int
    uds: Path


@dataclass(frozen=True)
class Stand:
    """A started proxy, or none (direct)."""

    subject: Subject
    target: Target

    def ready(self, seconds: float) -> bool:
        """Does it answer a request by now?"""
        end = monotonic() + seconds
        while monotonic() < end:
            if self.target.proxy is not None and not self.target.proxy.alive:
                return False
            answer = exchange(self.target.port, short_request(), _ATTEMPT_SECONDS)
            if answer is not None and answer.startswith(b"HTTP/1.1 200"):
                return True
            sleep(0.1)
        return False


class Run:
    """Measures subjects until the rounds or the time are over."""

    def __init__(self, folder: Path, cores: Cores, size: Size, seconds: float) -> None:
        self._folder = folder
        self._cores = cores
        self._size = size
        self._end = monotonic() + seconds
        self._cost: dict[str, float] = {}
        self.measured: list[Measured] = []
        self.absent: dict[str, str] = {}

    def run(self, subjects: Sequence[Subject], rounds: int) -> None:
        with ExitStack() as stack:
            fast = stack.enter_context(self.engine(TICK_MS))
            slow = stack.enter_context(self.engine(SLOW_TICK_MS))
            stands = [
                stand
                for subject in subjects
                if (stand := stack.enter_context(self._asleep(subject, fast))) is not None
            ]
            for number in range(rounds):
                for place in range(len(stands)):
                    # Whoever is first in one round is second in the next.
                    self._measure(stands[(place - number) % len(stands)], slow, number)

    @contextmanager
    def engine(self, tick_ms: int) -> Iterator[Engine]:
        """A fake engine on the core of the load generator."""
        port, uds = free_port(), self._folder / f"engine-{tick_ms}.sock"
        place = ["--port", str(port), "--uds", str(uds), "--also-tcp"]
        command = [sys.executable, "-m", "tests.fake_engine", "--tick-ms", str(tick_ms), *place]
        log = self._folder / f"engine-{tick_ms}.log"
        child = Child(command, core=self._cores.others, log=log, folder=REPOSITORY)
        with running(child):
            if not wait_for_port(child, port, _START_SECONDS):
                raise RuntimeError(f"the fake engine did not start:\n{log.read_text()}")
            yield Engine(child, port, uds)

    @contextmanager
    def started(self, subject: Subject, engine: Engine) -> Iterator[Stand | None]:
        """A proxy that answers, or None and the reason in `absent`."""
        if subject.launch is None:
            yield Stand(subject, Target(engine.port, engine.child, None))
            return
        folder = self._folder / f"{subject.name}-{engine.port}"
        folder.mkdir(exist_ok=True)
        at = Address(free_port(), free_port(), engine.port, engine.uds, folder)
        launch = subject.launch(at)
        log = folder / "log"
        try:
            child = Child(
                launch.command,
                core=self._cores.proxy,
                log=log,
                environ=launch.environ,
                folder=launch.folder,
            )
        except OSError as error:
            self.absent[subject.name] = str(error)
            yield None
            return
        with running(child):
            stand = Stand(subject, Target(at.port, engine.child, child))
            up = wait_for_port(child, at.port, _START_SECONDS) and stand.ready(_START_SECONDS)
            if not up:
                self.absent[subject.name] = f"did not start: {_last_line(log)}"
            yield stand if up else None

    @contextmanager
    def _asleep(self, subject: Subject, engine: Engine) -> Iterator[Stand | None]:
        if subject.version() is None:
            self.absent[subject.name] = "not installed (bench/install-peers.sh)"
            say(f"{subject.name}: absent")
            yield None
            return
        with self.started(subject, engine) as stand:
            say(f"{subject.name}: {'started' if stand else self.absent[subject.name]}")
            if stand is not None and stand.target.proxy is not None:
                stand.target.proxy.sleep()
            yield stand

    def _measure(self, stand: Stand, slow: Engine, number: int) -> None:
        name = stand.subject.name
        before = monotonic()
        if number > 0 and stand.subject.is_slow:
            return
        if before + self._cost.get(name, 0.0) > self._end:
            say(f"round {number + 1}, {name}: left out, the time is over")
            return
        measured = Measured(name, number + 1)
        self._awake(stand, measured)
        self._afresh(stand.subject, slow, measured)
        self.measured.append(measured)
        self._cost[name] = monotonic() - before
        say(f"round {number + 1}, {name}: {self._cost[name]:.1f} s")

    def _awake(self, stand: Stand, measured: Measured) -> None:
        """Workloads on the process that runs all the time."""
        proxy = stand.target.proxy
        if proxy is not None:
            proxy.wake()
        if stand.ready(_WAKE_SECONDS):
            figures = measured.figures
            figures["streams"] = loads.streams(stand.target, self._size)
            figures["requests"] = loads.requests(stand.target, self._size)
            figures["fresh"] = loads.fresh(stand.target, self._size)
            if not loads.overloaded(figures["streams"], self._size):
                figures["arrivals"] = loads.arrivals(stand.target, self._size)
                figures["beside"] = bodies.beside(stand.target, self._size)
        if proxy is not None:
            proxy.sleep()

    def _afresh(self, subject: Subject, slow: Engine, measured: Measured) -> None:
        """Workloads whose memory is read, on a process of their own."""
        with self.started(subject, slow) as stand:
            if stand is None:
                return
            measured.figures["bodies"] = bodies.bodies(stand.target, self._size)
            measured.figures["open_streams"] = loads.open_streams(stand.target, self._size)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "no output")


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)
