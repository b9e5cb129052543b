"""How often an engine may be started again, and how soon."""

from __future__ import annotations

from collections import deque
from time import monotonic

RESTART_WINDOW_SECONDS = 600.0
FIRST_BACK_OFF_SECONDS = 1.0
LAST_BACK_OFF_SECONDS = 30.0


class Restarts:
    """Those of the last ten minutes, and those of an engine that has not become ready since.

    The wait doubles with each start that came to nothing. A large model may take longer to fail
    than the ten minutes: so its failed starts are counted too, however far apart they are.
    """

    def __init__(self, allowed: int) -> None:
        self._allowed = allowed
        self._recent: deque[float] = deque()
        self._failed_starts = 0
        self._failed_engines = 0

    @property
    def spent(self) -> int:
        """How many there were when they were given up."""
        return max(len(self._recent), self._failed_engines - 1)

    def next(self, *, was_ready: bool, was_started: bool) -> float | None:
        """Seconds until the next start; None where there is to be none.

        `was_ready`: the engine that has just ended had been ready, so that it can be again.
        `was_started`: there was a process of it at all. A hub or a port that does not let it come
        so far may be asked for hours.
        """
        now = monotonic()
        while self._recent and now - self._recent[0] > RESTART_WINDOW_SECONDS:
            self._recent.popleft()
        self._failed_starts = 0 if was_ready else self._failed_starts + 1
        self._failed_engines = 0 if was_ready else self._failed_engines + was_started
        if len(self._recent) >= self._allowed or self._failed_engines > self._allowed:
            return None
        self._recent.append(now)
        doubled: float = FIRST_BACK_OFF_SECONDS * 2 ** max(0, self._failed_starts - 1)
        return min(doubled, LAST_BACK_OFF_SECONDS)
