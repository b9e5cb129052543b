"""A model by a short name: the variables that stand for it. A value: files are read elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from proxy.settings.environment import without_secrets


@dataclass(frozen=True, slots=True)
class Preset:
    """One entry of a models file.

    `variables` has the model's own (`MODEL_NAME`, `SERVED_MODEL_NAME`...) and the engine's, each as
    it would be written in an environment. `gpu_memory_gb` is what all GPUs together must have, in
    10^9 bytes. `weights_gb` is what the weights take of it, `cache_kib` what a token takes in the
    KV cache, `max_context` the model's longest request in tokens. Each is None where the file does
    not say. `sources` are addresses, for people.
    """

    name: str
    file: str
    variables: Mapping[str, str]
    gpu_memory_gb: float | None = None
    sources: tuple[str, ...] = ()
    weights_gb: float | None = None
    cache_kib: float | None = None
    max_context: int | None = None
    gpus: tuple[int, ...] = ()
    """The GPUs of its engine, by their number here; empty: all."""
    keys: tuple[str, ...] = ()
    """Labels of the API keys that may use it; empty: all."""
    pin: bool = False
    """Whether it never gives way to another model."""
    idle_unload_seconds: float | None = None
    """In place of `IDLE_UNLOAD_SECONDS`."""
    sleeps: bool = False
    """Whether an unload leaves its process there, which gives back the memory and can be woken."""

    @property
    def repository(self) -> str:
        return self.variables["MODEL_NAME"]

    @property
    def engine_variables(self) -> dict[str, str]:
        """Those that become arguments of `vllm serve`."""
        return {name: text for name, text in self.variables.items() if name not in MODEL_VARIABLES}


MODEL_VARIABLES = ("MODEL_NAME", "MODEL_REVISION", "SERVED_MODEL_NAME", "MAX_IN_FLIGHT")


@dataclass(frozen=True, slots=True)
class Applied:
    """A preset and what came of it: `given` was taken, `overruled` the environment sets itself."""

    preset: Preset
    given: Mapping[str, str]
    overruled: tuple[str, ...]

    @property
    def shown(self) -> dict[str, str]:
        """What was taken, without the secrets in it."""
        return {name: without_secrets(text) for name, text in self.given.items()}

    def sentence(self) -> str:
        """One line for a log."""
        words = " ".join(f"{name}={text}" for name, text in self.shown.items())
        mine = f"; set by you instead: {', '.join(self.overruled)}" if self.overruled else ""
        return f"{self.preset.name} of {self.preset.file}: {words}{mine}"


def apply(
    preset: Preset, environ: Mapping[str, str], spellings: Mapping[str, tuple[str, ...]]
) -> tuple[dict[str, str], Applied]:
    """The environment with a preset under it, and what that was.

    `spellings` has the names of each variable that has several (a variable is overruled by any of
    its names); the model's name, which chose the preset, is replaced by the repository.
    """
    models = spellings["MODEL_NAME"]
    own = {name: text for name, text in environ.items() if name not in models}
    given = {
        name: text
        for name, text in preset.variables.items()
        if not any(spelling in own for spelling in spellings.get(name, (name,)))
    }
    overruled = tuple(name for name in preset.variables if name not in given)
    # First the preset's: of two flags that mean the same, vLLM takes the last one.
    return {**given, **own}, Applied(preset, given, overruled)
