"""The phases of the engine's life: the closed set of the `phase` label."""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where the engine stands."""

    CHECKING = "checking"
    """What can be known before minutes are spent is being looked at; no engine process yet."""

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
