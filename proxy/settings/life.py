"""The engine's life: start, restarts, end."""

from __future__ import annotations

from proxy.settings.values import CountOrZero, Group, OnEngineFailure, Seconds, variable


class LifeSettings(Group):
    """The engine's life: start, restarts, end."""

    warmup: bool = variable(
        "WARMUP", default=True, effect="Ready only after the engine has generated a token."
    )
    wedge_seconds: Seconds = variable(
        "WEDGE_SECONDS",
        default=60,
        effect="Seconds without a sign of work that end a stuck engine; 0 never does.",
    )
    max_restarts: CountOrZero = variable(
        "MAX_RESTARTS",
        default=5,
        effect="Engine restarts allowed within 10 minutes, and in a row without getting ready.",
    )
    poison_guard: bool = variable(
        "POISON_GUARD",
        default=True,
        effect="Refuse a request that was running at two deaths of the engine, for 10 minutes.",
    )
    on_engine_failure: OnEngineFailure = variable(
        "ON_ENGINE_FAILURE",
        default=OnEngineFailure.HOLD,
        effect="`hold`: stay up and say why; `exit`: exit with 1.",
    )
    drain_seconds: Seconds = variable(
        "DRAIN_SECONDS", default=25, effect="Seconds running requests may go on after SIGTERM."
    )
    drain_delay_seconds: Seconds = variable(
        "DRAIN_DELAY_SECONDS", default=0, effect="Seconds to keep taking work after SIGTERM."
    )
