"""vLLM as the care of an engine process runs it: prepared once, then started as often as needed."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from pathlib import Path
from types import MappingProxyType

from proxy.engine.history import History
from proxy.engine.phase import ENDS, START_PHASES, Phase
from proxy.engine.server import Command
from proxy.engine.state import EngineState, Snapshot
from proxy.errors import Cause, EngineFailure, SettingsError
from proxy.machine.checks import check_disk, check_executable, check_port
from proxy.machine.hardware import VISIBLE, Hardware, detect
from proxy.machine.pinned_memory import OF_ALL_ENGINES
from proxy.models.demo import BUILT_IN
from proxy.models.fetch import (
    Model,
    Transfer,
    data_directory,
    fetch,
    model_cache,
    served_names,
)
from proxy.preflight.checkup import hardware_of, inspect, model_name
from proxy.preflight.finding import Result
from proxy.preflight.sizing import Sizing
from proxy.settings import Settings
from proxy.tasks import spawn
from proxy.vllm.command import engine_command, masked
from proxy.vllm.description import Description, describe_folder
from proxy.vllm.engine_socket import EngineSocket
from proxy.vllm.output import Output, hide
from proxy.vllm.probe import Probe
from proxy.vllm.sleep import VllmSleeper

_log = logging.getLogger("proxy.engine")

_TOO_LITTLE_MEMORY = (Cause.OUT_OF_MEMORY, Cause.KV_CACHE_TOO_SMALL, Cause.CONTEXT_TOO_LONG)


class VllmServer:
    """One `vllm serve` with one model, as a `Server` of `engine`. It writes `state` only within
    `prepare`, as part of the engine's task."""

    def __init__(
        self,
        settings: Settings,
        state: EngineState,
        probe: Probe,
        socket: EngineSocket | None = None,
    ) -> None:
        """`socket`: where it listens in place of UPSTREAM_PORT."""
        self.hardware = Hardware()
        """As it was looked at by the last `prepare`."""
        self._settings = settings
        self._state = state
        self.probe = probe
        self.sizing: Sizing | None = None
        """How much memory its engine is given, by the same look."""
        self._output: Output | None = None
        self._model: Model | None = None
        self._history = History(data_directory(settings) / "starts.json", dict[Phase, float])
        self._start_key = ""
        self._socket = socket
        self.sleeper: VllmSleeper | None = None
        if settings.sleeps and socket is not None:
            name = state.model or ""
            self.sleeper = VllmSleeper(probe.client, name, OF_ALL_ENGINES, socket)
        state.listen(self._on_change)

    def close(self) -> None:
        """Its engine has ended, and another server takes its place."""
        self._state.ignore(self._on_change)

    async def prepare(self) -> str:
        """Look at the machine, judge the model, bring it here. Raises EngineFailure."""
        state, settings = self._state, self._settings
        if state.snapshot.phase is not Phase.CHECKING:
            state.enter(Phase.CHECKING)  # again, after the hub or the port failed
        try:
            machine = await asyncio.to_thread(detect, settings.environ.get(VISIBLE))
        except SettingsError as error:
            raise EngineFailure(Cause.TOO_FEW_GPUS, str(error), permanent=True) from None
        self.hardware = hardware_of(settings, machine)
        level = logging.WARNING if self.hardware.trouble else logging.INFO
        _log.log(level, "hardware: %s", self.hardware.sentence())
        check_executable("vllm")
        self._check_address()
        # In a thread, as all that asks a volume: one in trouble holds the question for minutes.
        await asyncio.to_thread(check_disk, model_cache(settings))
        name = model_name(settings, self.hardware)
        try:  # not only when the model has been fetched
            self.sizing = await asyncio.to_thread(Sizing, settings, name, self.hardware)
        except SettingsError as error:
            raise EngineFailure(Cause.BAD_FLAG, str(error), permanent=True) from None
        state.update(served_names=served_names(settings, name), demo=name in BUILT_IN)
        self._start_key = f"{name} on {self.hardware.kind}"
        expected = await asyncio.to_thread(self._history.newest, self._start_key)
        state.update(expected_seconds=MappingProxyType(expected or {}))

        def log_line(line: str) -> None:
            _log.info("%s", hide(settings.hf_token, line))

        self._model = await fetch(settings, name, self._judge, self._show, log_line)
        if self._model.demo:
            _log.warning("the model is `%s`: RANDOM WEIGHTS, its answers mean nothing", name)
        if self.sleeper is not None:
            self.sleeper.weights_bytes = 0
            if self.hardware.has_gpu:  # without one the weights stay where they are
                folder = Path(self._model.path)
                described = await asyncio.to_thread(describe_folder, name, folder)
                self.sleeper.weights_bytes = described.weights_bytes
        state.update(model_path=self._model.path, revision=self._model.revision)
        return self._model.served_names[0]

    def command(self) -> Command:
        """Raises EngineFailure where a variable is wrong, or the port is taken."""
        model = self._model
        assert model is not None, "prepare comes first"
        assert self.sizing is not None
        try:
            command = engine_command(
                self._settings,
                model_path=model.path,
                served_names=model.served_names,
                has_gpu=self.hardware.has_gpu,
                demo=model.demo,
                memory=self.sizing.engine_memory,
                revision=model.revision if model.fetched_by_engine else None,
                uds=self._socket.path if self._socket is not None else None,
            )
        except SettingsError as error:
            raise EngineFailure(Cause.BAD_FLAG, str(error), permanent=True) from None
        if shutil.which(command.argv[0]) is None:
            # Not on the PATH but beside this Python, as are the tools that it calls itself.
            executable = check_executable(command.argv[0])
            path = f"{Path(executable).parent}:{command.environ.get('PATH', os.defpath)}"
            argv = (executable, *command.argv[1:])
            command = Command(argv, {**command.environ, "PATH": path}, tuple(masked(argv)))
        self._check_address()
        return command

    def _check_address(self) -> None:
        """Raises EngineFailure where the engine could not listen, or another would pass for it."""
        if self._socket is None:
            check_port(self._settings.upstream_port)
        else:
            self._socket.clear()

    def new_output(self) -> Output:
        self._output = Output(self._settings.hf_token, model=self._state.model)
        return self._output

    @property
    def kv_cache_bytes(self) -> int | None:
        """By what the newest process has printed. 0: the model has none; None: unknown."""
        return None if self._output is None else self._output.kv_cache_bytes

    def _on_change(self, before: Snapshot, after: Snapshot) -> None:
        """Keep how long a start took that became ready; forget what is gone, and a size that was
        too small."""
        if self.sleeper is not None and after.phase in (Phase.RESTARTING, *ENDS):
            self.sleeper.release()
        if after.phase is Phase.READY and before.phase is Phase.WARMING:
            seconds = dict(after.expected_seconds)
            kept = asyncio.to_thread(self._history.keep, self._start_key, seconds)
            spawn(kept, name="start history")
        is_starting = before.phase in START_PHASES
        if is_starting and after.cause in _TOO_LITTLE_MEMORY and self.sizing is not None:
            spawn(asyncio.to_thread(self.sizing.forget), name="memory history")

    def _judge(self, model: Description) -> None:
        """Judge the model before its weights are fetched. Raises EngineFailure."""
        for finding in inspect(model, self._settings, self.hardware):
            if finding.result is Result.WARN:
                _log.warning("%s", finding.sentence)
        self._state.enter(Phase.DOWNLOADING)

    def _show(self, transfer: Transfer) -> None:
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
            _log.info(
                "downloading: %.2f of %.2f GB (%.0f %%)%s",
                transfer.bytes_done / 1e9,
                transfer.bytes_total / 1e9,
                transfer.fraction * 100,
                f", {rate / 1e6:.1f} MB/s" if rate else "",
            )
