"""Processes of a run: pinned to a core, measured through /proc, ended by their pid.

Each child leads a session of its own and is killed by the kernel when the benchmark dies,
so that none outlives a run however it ends.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

STOP_SECONDS = 3.0
MIB = 1024 * 1024
_RESET_PEAK = "5"  # proc(5): clear_refs sets VmHWM back to the present size


class Child:
    """One process with its descendants; on `core` alone, or on all that this one may use."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        log: Path,
        core: int | None = None,
        environ: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *pinned, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**clean_environ(), **(environ or {})},
                cwd=folder,
                start_new_session=True,
            )
        self.log = log

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def pids(self) -> list[int]:
        """Itself and all its descendants."""
        found = [self.pid]
        for pid in found:
            found.extend(_children_of(pid))
        return found

    def cpu_seconds(self) -> float:
        """CPU time of all its threads, to the nanosecond where the kernel says it.

        /proc/PID/stat counts in ticks of 10 ms, which is 5 % of a short measurement.
        """
        return sum(map(_cpu_seconds, self.pids()))

    def own_cpu_seconds(self) -> float:
        """The same without its descendants."""
        return _cpu_seconds(self.pid)

    def rss_mib(self) -> float:
        return self._memory("VmRSS")

    def peak_rss_mib(self) -> float:
        """Largest since the start or since `reset_peak`."""
        return self._memory("VmHWM")

    def reset_peak(self) -> None:
        for pid in self.pids():
            with suppress(OSError):
                Path(f"/proc/{pid}/clear_refs").write_text(_RESET_PEAK)

    def sleep(self) -> None:
        """Take no CPU until woken: another proxy is being measured."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def wait(self, seconds: float) -> int | None:
        """Its exit code, or None where it still runs."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def stop(self, seconds: float = STOP_SECONDS) -> None:
        if self.alive:
            self.wake()
            self._signal(signal.SIGTERM)
            self.wait(seconds)
        self._signal(signal.SIGKILL)
        self.wait(STOP_SECONDS)

    def _memory(self, field: str) -> float:
        return sum(_status_kib(pid, field) for pid in self.pids()) / 1024

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)


@contextmanager
def running(child: Child, *, stop_seconds: float = STOP_SECONDS) -> Iterator[Child]:
    try:
        yield child
    finally:
        child.stop(stop_seconds)


def clean_environ() -> dict[str, str]:
    """What children get: no proxies, none of the sidecar's own variables."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in kept if name in os.environ}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_port(child: Child, port: int, seconds: float) -> bool:
    """True once something accepts connections there; False when it died or never did."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and child.alive:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        time.sleep(0.05)
    return False


def _children_of(pid: int) -> list[int]:
    found: list[int] = []
    for task in _tasks(pid):
        with suppress(OSError):
            found.extend(map(int, (task / "children").read_text().split()))
    return found


def _tasks(pid: int) -> list[Path]:
    with suppress(OSError):
        return list(Path(f"/proc/{pid}/task").iterdir())
    return []


def _cpu_seconds(pid: int) -> float:
    try:
        return sum(_scheduled_seconds(task) for task in _tasks(pid))
    except OSError:
        return _ticked_seconds(pid)


def _scheduled_seconds(task: Path) -> float:
    return int((task / "schedstat").read_text().split()[0]) / 1e9


def _ticked_seconds(pid: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _status_kib(pid: int, field: str) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1])
    return 0
