"""The engine's lifecycle: start, restarts, end."""

from __future__ import annotations

from proxy.settings.values import (
    CountOrZero,
    Group,
    OnEngineFailure,
    PodIdleAction,
    Seconds,
    variable,
)


class LifecycleSettings(Group, title="Lifecycle"):
    """How the engine starts, restarts and ends."""

    warmup: bool = variable(
        "WARMUP",
        default=True,
        effect="Ready only after the engine has generated a token, "
        "or done once what its model does.",
    )
    wedge_seconds: Seconds = variable(
        "WEDGE_SECONDS",
        default=60,
        unit="s",
        effect="Maximum time without progress of an engine that has work; then it is restarted. "
        "0: never.",
    )
    max_restarts: CountOrZero = variable(
        "MAX_RESTARTS",
        default=5,
        unit="restarts",
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
        effect="What to do when the engine cannot be started any more. "
        "`hold`: stay up and say why; `exit`: exit with 1.",
    )
    drain_seconds: Seconds = variable(
        "DRAIN_SECONDS",
        default=25,
        unit="s",
        effect="Maximum time that running requests may go on after SIGTERM.",
    )
    drain_delay_seconds: Seconds = variable(
        "DRAIN_DELAY_SECONDS",
        default=0,
        unit="s",
        effect="Time to keep taking requests after SIGTERM, "
        "for load balancers that are slow to notice.",
    )
    pod_idle_seconds: Seconds = variable(
        "POD_IDLE_SECONDS",
        default=0,
        unit="s",
        effect="Time without a request after which `POD_IDLE_ACTION` happens. 0: never. It counts "
        "from the end of the start; health checks and metrics are no requests.",
        example="3600",
    )
    pod_idle_action: PodIdleAction = variable(
        "POD_IDLE_ACTION",
        default=PodIdleAction.EXIT,
        effect="What happens to an idle pod. `exit`: the sidecar exits with 0; `runpod-stop`: the "
        "pod is stopped by RunPod's API, with the id and the key that RunPod sets in its pods. A "
        "stopped pod costs its storage only, and is started again by hand.",
        danger="A container that restarts whatever its exit code is starts the engine again: set "
        "`restart: on-failure`. RunPod restarts containers: use `runpod-stop` there",
    )
