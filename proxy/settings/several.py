"""Several models on one machine: how many are loaded, and when one gives way."""

from __future__ import annotations

from proxy.settings.values import Count, Gibibytes, Group, Seconds, variable


class SeveralSettings(Group, title="Several models"):
    """How many models are loaded at a time, and when one gives way to another."""

    max_loaded_models: Count | None = variable(
        "MAX_LOADED_MODELS",
        unit="models",
        effect="How many models may be loaded at a time. A request for another one has it loaded, "
        "and the one that was used least recently gives way. [Models](models.md#several-models) "
        "says what a swap costs.",
        unset="all",
        example="1",
    )
    memory_budget_gib: Gibibytes | None = variable(
        "MEMORY_BUDGET_GIB",
        unit="GiB",
        effect="Memory that all engines together may take: of each GPU, or of the machine where "
        "there is none.",
        unset="what is there, less what other processes hold at the start",
        example="40",
    )
    idle_unload_seconds: Seconds = variable(
        "IDLE_UNLOAD_SECONDS",
        default=0,
        unit="s",
        effect="Time without a request after which a model is unloaded; the next request for it "
        "has it loaded again. 0: never. Of a single model too.",
        example="1800",
    )
    swap_max_wait_seconds: Seconds = variable(
        "SWAP_MAX_WAIT_SECONDS",
        default=60,
        unit="s",
        effect="Maximum time for which requests for a model that is not loaded are passed over for "
        "a model that is busy. Then the busy one takes no new requests, finishes what runs and "
        "gives way.",
    )
