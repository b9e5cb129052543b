"""What is done once, however often the engine is started: the machine looked at, the model
judged and brought here. Part of the engine's task, which alone writes the state.
"""

from __future__ import annotations

import asyncio
import logging
from types import MappingProxyType

from proxy.engine.history import StartHistory
from proxy.engine.phase import Phase
from proxy.engine.state import EngineState, Snapshot
from proxy.errors import Cause, EngineFailure, SettingsError
from proxy.machine.checks import check_disk, check_executable, check_port
from proxy.machine.hardware import Hardware, detect
from proxy.models.demo import DEMO_MODEL_NAME
from proxy.models.fetch import (
    Model,
    Transfer,
    data_directory,
    fetch,
    model_cache,
    served_names,
)
from proxy.models.kind import repository_of
from proxy.preflight.finding import Finding, Result
from proxy.settings import Settings
from proxy.tasks import spawn
from proxy.vllm.architectures import check_architecture
from proxy.vllm.command import DEFAULT_GPU_MODEL, engine_command
from proxy.vllm.description import Description
from proxy.vllm.memory import check_memory
from proxy.vllm.output import hide

_log = logging.getLogger("proxy.engine")


def model_name(settings: Settings, hardware: Hardware) -> str:
    """The model that MODEL_NAME means, or what is served without one. Raises EngineFailure."""
    if settings.model_name:
        return repository_of(settings.model_name, settings.model_revision)
    return DEFAULT_GPU_MODEL if hardware.has_gpu else DEMO_MODEL_NAME


def check_arguments(settings: Settings, name: str, hardware: Hardware) -> None:
    """Raises SettingsError where the engine's command cannot be made."""
    names = served_names(settings, name)
    engine_command(settings, model_path=name, served_names=names, has_gpu=hardware.has_gpu)


def inspect(model: Description, settings: Settings, hardware: Hardware) -> list[Finding]:
    """What can be said of a model before its weights are here.

    Raises:
        EngineFailure: vLLM certainly cannot run it.
    """
    found = (check_architecture(model, settings), check_memory(model, settings, hardware))
    return [finding for finding in found if finding is not None]


class Preparation:
    """From settings to a model on this machine, through `checking` and `downloading`."""

    def __init__(self, settings: Settings, state: EngineState) -> None:
        self.hardware = Hardware()
        self._settings = settings
        self._state = state
        self._history = StartHistory(data_directory(settings) / "starts.json")
        self._started = ""
        state.listen(self._changed)

    async def run(self) -> Model:
        """Raises EngineFailure."""
        state, settings = self._state, self._settings
        if state.snapshot.phase is not Phase.CHECKING:
            state.enter(Phase.CHECKING)  # again, after the hub or the port failed
        self.hardware = await asyncio.to_thread(detect)
        level = logging.WARNING if self.hardware.trouble else logging.INFO
        _log.log(level, "hardware: %s", self.hardware.sentence())
        check_executable("vllm")
        check_port(settings.upstream_port)
        # In a thread, as all that asks a volume: one in trouble holds the question for minutes.
        await asyncio.to_thread(check_disk, model_cache(settings))
        name = model_name(settings, self.hardware)
        try:  # not only when the model has been fetched
            check_arguments(settings, name, self.hardware)
        except SettingsError as error:
            raise EngineFailure(Cause.BAD_FLAG, str(error), permanent=True) from None
        state.update(served_names=served_names(settings, name), demo=name == DEMO_MODEL_NAME)
        self._started = f"{name} on {self.hardware.kind}"
        expected = await asyncio.to_thread(self._history.expected, self._started)
        state.update(expected_seconds=MappingProxyType(expected))
        model = await fetch(settings, name, self._found, self._transferred, self._say)
        if model.demo:
            _log.warning("the model is `demo`: RANDOM WEIGHTS, its answers mean nothing")
        state.update(model_path=model.path, revision=model.revision)
        return model

    def _found(self, model: Description) -> None:
        """Judge the model before its weights are fetched. Raises EngineFailure."""
        for finding in inspect(model, self._settings, self.hardware):
            if finding.result is Result.WARN:
                _log.warning("%s", finding.sentence)
        self._state.enter(Phase.DOWNLOADING)

    def _changed(self, before: Snapshot, after: Snapshot) -> None:
        """Keep how long a start took that became ready."""
        if after.phase is Phase.READY and before.phase is Phase.WARMING:
            kept = asyncio.to_thread(self._history.remember, self._started, after.expected_seconds)
            spawn(kept, name="start history")

    def _say(self, line: str) -> None:
        """Log a line of a child of ours."""
        _log.info("%s", hide(self._settings.hf_token, line))

    def _transferred(self, transfer: Transfer) -> None:
        before = self._state.snapshot.progress or 0.0
        self._state.update(
            progress=transfer.fraction,
            eta_seconds=transfer.eta_seconds,
            bytes_per_second=transfer.bytes_per_second,
            downloaded_bytes=transfer.bytes_done,
            download_bytes=transfer.bytes_total,
        )
        if int(transfer.fraction * 10) > int(before * 10):  # a line for each tenth
            rate = transfer.bytes_per_second
            done, total = transfer.bytes_done / 1e9, transfer.bytes_total / 1e9
            _log.info(
                "downloading: %.2f of %.2f GB (%.0f %%)%s",
                *(done, total, transfer.fraction * 100),
                f", {rate / 1e6:.1f} MB/s" if rate else "",
            )
