"""The state that all parts of the fake engine share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING

from .endings import Interruption
from .metrics import Metrics
from .options import Options
from .received import Journal
from .scenario import Scenario
from .script import Script

if TYPE_CHECKING:
    from .connection import Connection


class State(StrEnum):
    """Where in its life the engine is."""

    SERVING = "serving"
    DEAD = "dead"
    STOPPING = "stopping"


class Engine:
    """Options, script and counts; and the means to end what is in flight."""

    def __init__(self, options: Options, scenario: Scenario) -> None:
        self.options = options
        self.scenario = scenario
        self.journal = Journal()
        self.metrics = Metrics()
        self.state = State.SERVING
        self.created = int(time.time())
        self.connections: set[Connection] = set()
        self.connections_opened = 0
        self.path_scripts: dict[str, Script] = {}
        self.released = asyncio.Event()
        """Set by `POST /__fake/release` until the next reset: nothing is held back then."""
        self.on_death: Callable[[], None] = lambda: None
        """Set by the life: the engine core has died."""
        self.awake = asyncio.Event()
        self.awake.set()
        self.is_up = asyncio.Event()
        self.is_up.set()
        """Not while it sleeps: requests wait then, /health and /v1/models answer."""
        self.has_changed = False
        """It was woken, and generates something else than before."""
        self.is_core_stopped: Callable[[], bool] = lambda: False
        """Set by the life. While the core is stopped (SIGSTOP) no token is made, and /health stays
        200."""
        seats = options.max_num_seqs
        self._seats = asyncio.Semaphore(seats) if seats else None

    @property
    def model(self) -> str:
        """The first served name: answers carry it whatever alias was asked for."""
        return self.options.served_names[0]

    async def take_seat(self) -> None:
        """Wait until the scheduler has room for one more generation."""
        if self._seats is None:
            return
        self.metrics.waiting += 1
        try:
            await self._seats.acquire()
        finally:
            self.metrics.waiting -= 1

    def leave_seat(self) -> None:
        """A generation has ended."""
        if self._seats is not None:
            self._seats.release()

    async def until_awake(self) -> None:
        """Wait until the core runs; the life sets `awake` when it does again."""
        if self.is_core_stopped():
            self.awake.clear()
        await self.awake.wait()
        await self.is_up.wait()

    def die(self) -> None:
        """The engine core dies, as by a bad request."""
        if self.state is not State.DEAD:
            self.state = State.DEAD
            self.interrupt(Interruption.DIED)
            self.on_death()

    def interrupt(self, why: Interruption) -> None:
        """End every generation in flight."""
        for connection in tuple(self.connections):
            connection.interrupt(why)

    @property
    def in_flight(self) -> int:
        """Exchanges that are not done."""
        return sum(connection.busy for connection in self.connections)
