"""The life of the fake engine, scripted by `FAKE_ENGINE_*` variables: each name and its default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

PHASE_SECONDS = 0.05
DEFAULT_TASKS = frozenset({"generate", "transcription", "embed"})


class Phase(StrEnum):
    """The phases of a start, in order."""

    IMPORT = "import"
    """Silent, the port not bound."""
    CONFIG = "config"
    """Banner and config; the port is bound, not listening."""
    ENGINE = "engine"
    WEIGHTS = "weights"
    COMPILE = "compile"
    CACHE = "cache"
    APP = "app"


@dataclass(frozen=True)
class Scenario:
    """One start's script. A list of fields here is the list of variables."""

    phase_seconds: dict[Phase, float] = field(default_factory=dict)
    """FAKE_ENGINE_PHASE_SECONDS: `0.05` for all, or `import=0.1,weights=2,...`."""
    hang_at: Phase | None = None
    """FAKE_ENGINE_HANG_AT: a phase that never ends."""
    fail_log: Path | None = None
    """FAKE_ENGINE_FAIL_LOG: print this file's lines and exit at start. The recorder's marks of a
    recorded log (`[  8.584] `, lines that begin with `#[`) are taken off."""
    exit_code: int = 1
    """FAKE_ENGINE_EXIT_CODE: with FAIL_LOG, or alone: exit silently after the banner."""
    fail: bool = False
    """FAIL_LOG or EXIT_CODE was given."""
    generation: str = "ok"
    """FAKE_ENGINE_GENERATION: ok | fail (500 to each) | die (the first kills the engine) | hang."""
    tasks: frozenset[str] = DEFAULT_TASKS
    """FAKE_ENGINE_TASKS: what the model can do, of generate, transcription, embed, score, classify,
    pooling; the routes of all other tasks are not there, as in vLLM."""
    crash_seconds: float = 0.4
    """FAKE_ENGINE_CRASH_SECONDS: from the engine's death to the exit (code 0, as real vLLM)."""
    ignore_term: bool = False
    """FAKE_ENGINE_IGNORE_TERM: SIGTERM and SIGINT do nothing."""
    term_seconds: float = 0.1
    """FAKE_ENGINE_TERM_SECONDS: from the signal to the exit of an idle engine (real: 0.35)."""
    children: int = 0
    """FAKE_ENGINE_CHILDREN: sleepers in our process group named like EngineCore and Worker; they
    outlive our SIGKILL. The death of the first is noticed as the engine's death; while it is
    stopped (SIGSTOP) no token is made, /health is 200 and /metrics stands still."""
    dev_mode: bool = False
    """VLLM_SERVER_DEV_MODE, as vLLM has it: /sleep, /wake_up and /is_sleeping are there."""
    sleep: str = "ok"
    """FAKE_ENGINE_SLEEP: ok | fail (500) | hang | lie (200, and it does not sleep)."""
    wake: str = "ok"
    """FAKE_ENGINE_WAKE: ok | fail (500) | hang | part (it stays asleep) | other (it generates
    other tokens than before)."""
    orphans: bool = False
    """FAKE_ENGINE_ORPHANS: leave the children running at an exit of our own, too."""

    def seconds(self, phase: Phase) -> float:
        """How long a phase takes."""
        return self.phase_seconds.get(phase, PHASE_SECONDS)


def _phases(text: str) -> dict[Phase, float]:
    if not text:
        return {}
    if "=" not in text:
        return dict.fromkeys(Phase, float(text))
    pairs = (part.split("=", 1) for part in text.split(","))
    return {Phase(name.strip()): float(seconds) for name, seconds in pairs}


def count_start(state: Path) -> int:
    """Number of this start (from 1), counted in a file."""
    number = int(state.read_text() or 0) + 1 if state.exists() else 1
    state.write_text(str(number))
    return number


def _is_bad_start(environment: Mapping[str, str]) -> bool:
    """FAKE_ENGINE_STATE counts starts; FAKE_ENGINE_BAD_STARTS=K: only the first K are scripted."""
    state = environment.get("FAKE_ENGINE_STATE")
    number = count_start(Path(state)) if state else 1
    limit = environment.get("FAKE_ENGINE_BAD_STARTS")
    return limit is None or number <= int(limit)


def read(environment: Mapping[str, str]) -> Scenario:
    """The script of this start. After BAD_STARTS only pace, children and signals are scripted."""
    bad = _is_bad_start(environment)

    def get(name: str, *, only_bad: bool = True) -> str:
        return environment.get(f"FAKE_ENGINE_{name}", "") if bad or not only_bad else ""

    tasks = get("TASKS", only_bad=False)
    fail_log, exit_code = get("FAIL_LOG"), get("EXIT_CODE")
    return Scenario(
        phase_seconds=_phases(get("PHASE_SECONDS", only_bad=False)),
        hang_at=Phase(get("HANG_AT")) if get("HANG_AT") else None,
        fail_log=Path(fail_log) if fail_log else None,
        exit_code=int(exit_code or 1),
        fail=bool(fail_log or exit_code),
        generation=get("GENERATION") or "ok",
        tasks=frozenset(tasks.split(",")) if tasks else DEFAULT_TASKS,
        crash_seconds=float(get("CRASH_SECONDS", only_bad=False) or 0.4),
        ignore_term=get("IGNORE_TERM", only_bad=False) in ("1", "true"),
        term_seconds=float(get("TERM_SECONDS", only_bad=False) or 0.1),
        children=int(get("CHILDREN", only_bad=False) or 0),
        dev_mode=environment.get("VLLM_SERVER_DEV_MODE") == "1",
        sleep=get("SLEEP") or "ok",
        wake=get("WAKE") or "ok",
        orphans=get("ORPHANS", only_bad=False) in ("1", "true"),
    )
