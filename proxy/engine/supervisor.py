"""A task that takes care of one engine, started and stopped as often as it is ordered."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable

from proxy.tasks import model_of_task, spawn

Drained = Callable[[float], Awaitable[bool]]
"""Waits for running requests, at most so many seconds; false where some still run."""
Turn = Callable[[], Awaitable[bool]]
"""Waits until a process may be started; false where none is to be. Whoever it returns to starts one
before anything else runs: that is what two engines that share a device go by."""


class Supervisor(ABC):
    """The only writer of its engine's state. One instance for each engine; they share nothing."""

    def __init__(self, model: str | None = None) -> None:
        """`model` is a field of each log line; None where there is only one."""
        self._log_tag = model
        self._task: asyncio.Task[None] | None = None
        self._fetches_only = self._is_ending = False

    @property
    def is_running(self) -> bool:
        """Whether a task takes care of the engine."""
        return self._task is not None and not self._task.done()

    @property
    def pid(self) -> int | None:
        """The process that all of the engine's are below, where it is ours and runs."""
        return None

    def start(self, *, fetches_only: bool = False) -> asyncio.Task[None]:
        """Take care of the engine from now on. Returns at once; the engine's state tells the rest.

        With `fetches_only` the task ends when all that the engine needs is on this machine.

        The task ends by itself where no start is of use any more (`failed`). After that, and after
        `stop` has returned, it may be called again; the restarts are then counted anew. To call it
        while the task runs is an error of the caller's.
        """
        assert not self.is_running, "the engine has not stopped yet"
        self._fetches_only, self._is_ending = fetches_only, False
        self._task = spawn(self._supervise(), name="engine")
        return self._task

    async def stop(self) -> None:
        """Let running requests finish, then end the engine; returns when it is gone.

        Of use in every phase, a start that is under way included. Another call beside it waits for
        the same end. Cancelling the caller does not call the stop off: no half of it is left.
        Does nothing where the task has ended by itself or was never started.
        """
        if self._task is None or self._task.done():
            return
        if not self._is_ending:
            self._is_ending = True
            # After its first step, which may be due yet: else nobody would be told of its end.
            asyncio.get_running_loop().call_soon(self._task.cancel)
        await asyncio.wait({self._task})

    async def _supervise(self) -> None:
        model_of_task.set(self._log_tag)
        try:
            await self._run()
        except asyncio.CancelledError:
            await self._wind_down()
            raise

    @abstractmethod
    async def _run(self) -> None:
        """Keep the engine up; returns only when no start is of use any more."""

    @abstractmethod
    async def _wind_down(self) -> None:
        """From `draining` to `stopped`."""
