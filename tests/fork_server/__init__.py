"""Processes of Python programs, forked from one that has imported them already.

The imports of the sidecar take 1.7 s of a core, and the tests start it hundreds of times. A program
that is started here is a process as any other: with a number, signals, output and an exit code of
its own. It has not parsed a command line and has imported nothing itself: tests of exactly that,
and some others, start the real command.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

_PROJECT = Path(__file__).parents[2]
# Read as the interpreter, its libraries or the C library start: what was forked would not do so.
_READ_AT_START = ("COVERAGE_", "GLIBC_", "LD_", "MALLOC_", "OTEL_PYTHON_", "PYTHON", "SSL_", "TZ")
LONGEST_ORDER = 128 * 1024


class Forked:
    """A process, as `subprocess.Popen` has it; its parent is the fork server."""

    def __init__(self, pid: int, exit_status: socket.socket, arguments: Sequence[str]) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._exit_status = exit_status
        self._arguments = arguments

    def wait(self, timeout: float | None = None) -> int:
        """The exit code, -N after signal N.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if self.returncode is None:
            self._exit_status.settimeout(timeout)
            try:
                status = self._exit_status.recv(16)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(self._arguments, timeout or 0) from None
            self._exit_status.close()
            if not status:
                raise ChildProcessError(f"the fork server has ended before process {self.pid}")
            self.returncode = int(status)
        return self.returncode

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # its end has not been told of yet
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


Process = subprocess.Popen[bytes] | Forked


class ForkServer:
    """Starts `python -m PROGRAM ARGUMENTS`; it imports `modules` when it is first needed."""

    def __init__(self, program: str, modules: Sequence[str]) -> None:
        self._program = program
        self._modules = modules
        self._orders: socket.socket | None = None
        self._process: subprocess.Popen[bytes]
        self._environ: dict[str, str] = {}
        self._one_at_a_time = threading.Lock()

    def start(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        output: BinaryIO,
        *,
        error: BinaryIO | None = None,
        new_session: bool = False,
    ) -> Process:
        """Start it in the folder of the project; stdin is empty.

        stdout and stderr are `output`, or stderr is `error`.
        """
        with self._one_at_a_time:
            if self._orders is None:
                self._begin(_read_at_start(environ))
            if _read_at_start(environ) == self._environ:
                return self._fork(arguments, environ, (output, error or output), new_session)
        return subprocess.Popen(
            [sys.executable, "-m", self._program, *arguments],
            cwd=_PROJECT,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=error or subprocess.STDOUT,
            start_new_session=new_session,
        )

    def _begin(self, environ: dict[str, str]) -> None:
        self._environ = environ
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        inherited = {key: value for key, value in os.environ.items() if key not in environ}
        for name in _read_at_start(inherited):
            del inherited[name]
        command = [sys.executable, "-m", "tests.fork_server", str(theirs.fileno()), self._program]
        with theirs:
            self._process = subprocess.Popen(
                [*command, *self._modules],
                cwd=_PROJECT,
                env={**inherited, **environ},
                stdin=subprocess.DEVNULL,
                # Its stdout is theirs, to which it must not look like a file with a position.
                stdout=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)

    def close(self) -> None:
        """It ends, and all that it has started."""
        if self._orders is not None:
            self._orders.close()
            self._orders = None
            self._process.communicate()

    def _fork(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        outputs: tuple[BinaryIO, BinaryIO],
        new_session: bool,
    ) -> Forked:
        assert self._orders is not None
        order = json.dumps([list(arguments), dict(environ), new_session]).encode()
        assert len(order) <= LONGEST_ORDER, "too long for the fork server"
        exit_status, theirs = socket.socketpair()
        with theirs:
            descriptors = [theirs.fileno(), *(each.fileno() for each in outputs)]
            socket.send_fds(self._orders, [order], descriptors)
        pid = self._orders.recv(16)
        if not pid:
            exit_status.close()
            raise ChildProcessError("the fork server has ended; it has said why on stderr")
        return Forked(int(pid), exit_status, [self._program, *arguments])


def _read_at_start(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(_READ_AT_START) and name != "PYTHON"  # which is scripts/start.sh's
    }


SIDECAR = ForkServer("proxy", ["proxy.commands.serve", "httpcore", "pydantic.v1"])
FAKE_ENGINE = ForkServer("tests.fake_engine", ["tests.fake_engine.life"])
