"""The phases of the engine's life, the closed set of the `phase` label; and which may follow which.

`docs/engine-life.md` draws the table; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType


class Phase(StrEnum):
    """Where the engine stands."""

    CHECKING = "checking"
    """Machine and settings are checked before minutes are spent; no engine process yet."""

    DOWNLOADING = "downloading"
    """The model's files are being fetched; no engine process yet."""

    LOADING = "loading"
    """The engine process runs: imports, configuration, weights."""

    COMPILING = "compiling"
    """Weights are in memory; the engine compiles, measures memory or captures graphs."""

    WARMING = "warming"
    """The engine's API is up, but it has not generated a token yet."""

    READY = "ready"
    """A token came out by the way users take."""

    DEGRADED = "degraded"
    """The engine runs, but does not answer as it should."""

    RESTARTING = "restarting"
    """The engine has died or was given up; the next start is due."""

    DRAINING = "draining"
    """No new work is taken; running work is being finished."""

    FAILED = "failed"
    """No start will be tried again."""

    STOPPED = "stopped"
    """The engine was stopped on purpose."""

    ASLEEP = "asleep"
    """The process is there, without the memory of its model, and can be woken."""

    WAKING = "waking"
    """The engine takes its memory back, and has not proved yet that it says what it said before."""


_START = {
    # LOADING: the model is here already, or the engine is run by someone else.
    Phase.CHECKING: {Phase.DOWNLOADING, Phase.LOADING},
    # STOPPED: the files are here, and the model is to be loaded later.
    Phase.DOWNLOADING: {Phase.LOADING, Phase.STOPPED},
    Phase.LOADING: {Phase.COMPILING, Phase.WARMING},
    Phase.COMPILING: {Phase.WARMING},
}
_FAILURE = {Phase.RESTARTING, Phase.FAILED}
_STOP = {Phase.DRAINING}

TRANSITIONS: Mapping[Phase, frozenset[Phase]] = MappingProxyType(
    {
        **{phase: frozenset(after | _FAILURE | _STOP) for phase, after in _START.items()},
        # To DEGRADED: only an engine that someone else runs, which may go at any time.
        Phase.WARMING: frozenset({Phase.READY, Phase.DEGRADED} | _FAILURE | _STOP),
        Phase.READY: frozenset({Phase.DEGRADED} | _FAILURE | _STOP),
        # To itself: the reason has become a graver one.
        Phase.DEGRADED: frozenset({Phase.READY, Phase.DEGRADED} | _FAILURE | _STOP),
        # To itself: a check before the start has failed.
        Phase.RESTARTING: frozenset({Phase.CHECKING, Phase.LOADING} | _FAILURE | _STOP),
        Phase.DRAINING: frozenset({Phase.STOPPED, Phase.ASLEEP}),
        # One that dies in its sleep is not started again: its place is another's now.
        Phase.ASLEEP: frozenset({Phase.WAKING, Phase.STOPPED} | _STOP),
        Phase.WAKING: frozenset({Phase.READY} | _FAILURE | _STOP),
        # Only by `Supervisor.start`, called again.
        Phase.FAILED: frozenset({Phase.CHECKING}),
        Phase.STOPPED: frozenset({Phase.CHECKING}),
    }
)

START_PHASES = (Phase.LOADING, Phase.COMPILING, Phase.WARMING)
"""What every start of the engine process goes through, in this order."""

ENDS = (Phase.FAILED, Phase.STOPPED)
"""In these no task takes care of the engine."""
