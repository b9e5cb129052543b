"""Which phase may follow which. `docs/engine-life.md` draws this table; a test compares the two."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from proxy.engine.phase import Phase

_START = {
    # LOADING: an engine that someone else runs needs nothing of us before.
    Phase.CHECKING: {Phase.DOWNLOADING, Phase.LOADING},
    Phase.DOWNLOADING: {Phase.LOADING},
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
        # To itself: what is looked at before a start has failed.
        Phase.RESTARTING: frozenset({Phase.CHECKING, Phase.LOADING} | _FAILURE | _STOP),
        Phase.FAILED: frozenset(),
        Phase.DRAINING: frozenset({Phase.STOPPED}),
        Phase.STOPPED: frozenset(),
    }
)


def mermaid() -> str:
    """The table as a Mermaid state diagram, one line for each transition."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.CHECKING}"]
    for before, following in TRANSITIONS.items():
        lines += [f"    {before} --> {after}" for after in Phase if after in following]
    lines += [f"    {phase} --> [*]" for phase, following in TRANSITIONS.items() if not following]
    return "\n".join(lines) + "\n"
