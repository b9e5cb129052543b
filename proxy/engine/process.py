"""One child process with everything below it: start, read its lines, TERM, then KILL."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from proxy.tasks import spawn

_GUARD = Path(__file__).with_name("guard.py")
_READ_BYTES = 64 * 1024
# What prints more than the loop reads at once is read no faster than this: 6.4 MB a second.
_PAUSE_SECONDS = 0.01
# Work of a millisecond or so for whoever takes them; then it is others' turn.
_LINES_A_TURN = 32
# A line without an end (a progress bar) is passed on at this length.
_MAX_LINE_BYTES = 256 * 1024


class Process:
    """A command under a guard (`engine.guard`), in a session of its own.

    Its output must be read to the end: a full pipe would freeze it. Needs uvloop: asyncio's
    own loop does not see an end before all output has been read.
    """

    def __init__(self, child: asyncio.subprocess.Process) -> None:
        self._child = child
        self._end = spawn(self._sweep(), name="guard's end")

    @classmethod
    async def start(cls, argv: Sequence[str], environ: Mapping[str, str]) -> Process:
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-E", "-S", str(_GUARD), *argv),
            env=dict(environ),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        return cls(child)

    @property
    def pid(self) -> int:
        """The guard's pid; the command is its child."""
        return self._child.pid

    @property
    def exit_code(self) -> int | None:
        """As `subprocess` has it (-9: killed by signal 9), or None while it runs."""
        code = self._child.returncode
        return 128 - code if code is not None and code > 128 else code

    async def lines(self) -> AsyncIterator[bytes]:
        """Output lines without their ends; carriage returns of progress bars end one too.

        Output without an end does not hold the event loop: every few lines it is others' turn.
        """
        assert self._child.stdout is not None
        rest = b""
        count = 0
        while piece := await self._child.stdout.read(_READ_BYTES):
            *whole, rest = (rest + piece).replace(b"\r", b"\n").split(b"\n")
            for line in whole:
                if line:
                    yield line
                    count += 1
                    if count % _LINES_A_TURN == 0:
                        await asyncio.sleep(0)
            if len(piece) == _READ_BYTES:
                await asyncio.sleep(_PAUSE_SECONDS)
            if len(rest) > _MAX_LINE_BYTES:
                yield rest
                rest = b""
        if rest:
            yield rest

    async def wait(self) -> int:
        """Wait until the command and everything below it is gone; returns its exit code."""
        await asyncio.shield(self._end)
        code = self.exit_code
        assert code is not None
        return code

    async def _sweep(self) -> None:
        """A guard that was itself killed has left everything running; its group is the tree."""
        code = await self._child.wait()
        self.kill()
        if code < 0:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def terminate(self) -> None:
        """SIGTERM to the command alone, so that it can end its own children in order."""
        with suppress(ProcessLookupError):
            self._child.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Make the guard end everything at once."""
        assert self._child.stdin is not None
        self._child.stdin.close()

    async def discard(self, grace_seconds: float = 0) -> int:
        """Like `stop`, for output that nobody else reads any more: it is read to its end here."""
        if grace_seconds:
            self.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(grace_seconds):
                    return await self._read_to_end()
        self.kill()
        return await self._read_to_end()

    async def _read_to_end(self) -> int:
        """So that the pipe is closed; returns the exit code."""
        async for _ in self.lines():
            pass
        return await self.wait()

    async def stop(self, grace_seconds: float) -> int:
        """TERM; KILL after `grace_seconds`, or at once where that is 0; returns the exit code.

        TERM would have vLLM end the answers that still run as if they were finished.
        """
        if grace_seconds:
            self.terminate()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace_seconds):
                return await self.wait()
        self.kill()
        return await self.wait()
