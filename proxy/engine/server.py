"""The server that an engine process runs, as the care of that process needs it.

`proxy/engine` knows nothing of vLLM. It is handed one `Server` for each engine
(`proxy/preflight/vllm_server.py`); for an engine that someone else runs, a `ServerProbe` is enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from proxy.engine.phase import Phase
from proxy.errors import Cause, EngineFailure, Failure

Counters = tuple[bytes, ...]
"""Samples that change with each step of the server's work and with nothing else; () is none."""


@dataclass(frozen=True, slots=True)
class Command:
    """What to execute. No secret is in `argv`."""

    argv: tuple[str, ...]
    environ: Mapping[str, str]
    shown: tuple[str, ...] = ()
    """`argv` as it may be shown to users."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A phase of the start, and how much of its present step is done (0..1).

    `None` where the server shows no bar for it. One phase may hold several bars in turn.
    """

    phase: Phase
    fraction: float | None = None


class ProbeFailed(Failure):
    """The server did not do what it was asked. `str()` is what it did instead, `status` its HTTP
    status (None where it did not answer), `remedy` what to do where someone else runs it."""

    def __init__(self, text: str, status: int | None = None, remedy: str = "") -> None:
        super().__init__(text)
        self.status = status
        self.remedy = remedy or "See the engine's own log."


class ModelsUnknown(ProbeFailed):
    """The server does not list its models."""


class WarmUpFailed(ProbeFailed):
    """The server did not do a small piece of work."""


class WarmUpTimeout(WarmUpFailed):
    """It did not answer at all, for so long that asking again is of no use."""


class SleepFailed(Failure):
    """The server did not give its memory back, or does not say what it has done."""


class WakeFailed(EngineFailure):
    """The server did not come back as it was."""

    def __init__(self, text: str) -> None:
        remedy = (
            "The engine is started afresh, and the model sleeps no more: from now on it is unloaded"
            " instead."
        )
        super().__init__(Cause.WAKE_FAILED, text, remedy=remedy, permanent=False)


class Sleeper(Protocol):
    """How a server gives the memory of its model back without ending. Nothing is sent to it
    meanwhile: it would wait for an answer until the server is woken."""

    def obstacle(self) -> str | None:
        """Why it must not sleep, as a sentence; None where it may, and is to at once: others have
        less room then."""

    async def prepare(self, model: str) -> None:
        """After each start, before the first request: note what shows later that it is the same.
        Never raises: what could not be noted is an obstacle."""

    async def sleep(self) -> None:
        """Returns when the memory is given back. Raises SleepFailed."""

    async def wake(self, model: str) -> None:
        """Returns when it has its memory again and says what it said before. Raises WakeFailed."""


class ServerProbe(Protocol):
    """Questions to a server that runs. None of them changes what it does for clients."""

    async def healthy(self) -> bool:
        """What the server says of itself. It may say so while it does no work; never raises."""

    async def served_models(self) -> tuple[str, ...]:
        """The names of its models, one at least. Raises ModelsUnknown."""

    async def warm_up(self, model: str) -> str | None:
        """Have it do one small piece of work, such as one token; returns the route that answered.

        None where the model has no route that could be asked. May take minutes: the first piece
        of work waits for kernels to be compiled, a later one behind a full batch.

        Raises:
            WarmUpFailed: a route is there, but did not do it (WarmUpTimeout: in time).
        """

    async def counters(self) -> Counters:
        """Of this moment; () where they cannot be read, which proves nothing. Never raises."""


class ServerOutput(Protocol):
    """What one process prints, from its first line to its last."""

    @property
    def progress(self) -> Progress:
        """How far the start is, by the lines read so far. Another object where it has changed."""

    def take(self, raw: bytes) -> None:
        """Read, log and keep one line, as it was printed."""

    def expect_end(self) -> None:
        """The process is told to end: what it prints of that is no error."""

    def flush(self) -> None:
        """Log what was held back."""

    def diagnose(self, exit_code: int | None, *, was_ready: bool) -> EngineFailure:
        """Why the process could not start (`was_ready` false) or stopped serving (true).

        `exit_code` is `subprocess`'s (-9: killed by signal 9); None for a process that still runs
        and is given up. Its lines may end in the middle of an error then.
        """


class Server(Protocol):
    """How one server is prepared, started, read and asked.

    `engine.lifecycle` calls `prepare` until it has succeeded once, then, for each start, `command`
    and `new_output`. All calls come from one task, so none runs beside another; only `probe` is
    asked by others at the same time.
    """

    @property
    def probe(self) -> ServerProbe:
        """The same for all starts: every process of this server listens at the same address."""

    @property
    def sleeper(self) -> Sleeper | None:
        """None for a server that cannot sleep, or is not to."""

    async def prepare(self) -> str:
        """Look at the machine and bring the model here; returns the name to ask for it by.

        Goes from `checking` to `downloading`. May be cancelled at any time, and called again
        after a failure: it goes on from what is there.

        Raises:
            EngineFailure: it cannot be had, now or (`permanent`) ever.
        """

    def command(self) -> Command:
        """What starts a process.

        Raises:
            EngineFailure: it cannot be started: a variable is wrong, or its port is taken.
        """

    def new_output(self) -> ServerOutput:
        """The reader of one process's output."""
