"""What earlier starts took: small files beside the model cache, one for time and one for memory.

They only make the next start better, so whatever is wrong with one is no failure: a file that
cannot be read is as good as none, one that cannot be written stays as it was.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from proxy.engine.phase import Phase

_log = logging.getLogger("proxy.engine")

START_PHASES = (Phase.LOADING, Phase.COMPILING, Phase.WARMING)
"""What every start of the engine process goes through, in this order."""

MAX_MODELS = 64
_MAX_FILE_BYTES = 256 * 1024
_VERSION = 1
# Each model has a thread that writes.
_writing = threading.Lock()


class _Start(msgspec.Struct, frozen=True):
    model: str


class _Duration(_Start, frozen=True):
    """The last start that became ready; seconds for each of its phases."""

    seconds: dict[Phase, float]


class Footprint(_Start, frozen=True):
    """The memory that an engine took when nothing else changed on its devices."""

    device_bytes: int
    """Of each of its GPUs, the most of any; of the machine where there is none."""
    kv_cache_bytes: int | None = None
    """Part of that, on each GPU. 0: the model has none; None: unknown."""
    asleep_bytes: int | None = None
    """What it still held of each GPU when it slept; None: unknown."""


_Kind = TypeVar("_Kind", bound=_Start)


class _File(msgspec.Struct, Generic[_Kind]):
    version: int
    starts: list[_Kind]
    """Newest last."""


class _History(Generic[_Kind]):
    """One such file: the newest start of each model. `model` says what was started on what, in
    words."""

    def __init__(self, path: Path, kind: type[_Kind]) -> None:
        self._path = path
        self._decoder: msgspec.json.Decoder[_File[_Kind]] = msgspec.json.Decoder(
            _File[kind]  # type: ignore[valid-type]
        )

    def newest(self, model: str) -> _Kind | None:
        return next((start for start in self._read() if start.model == model), None)

    def keep(self, start: _Kind) -> None:
        """In place of the one before."""
        with _writing:
            self._write([*self._others(start.model), start])

    def forget(self, model: str) -> None:
        with _writing:
            self._write(self._others(model))

    def _others(self, model: str) -> list[_Kind]:
        return [start for start in self._read() if start.model != model]

    def _read(self) -> list[_Kind]:
        with suppress(OSError, msgspec.DecodeError):
            if self._path.stat().st_size <= _MAX_FILE_BYTES:
                file = self._decoder.decode(self._path.read_bytes())
                return file.starts if file.version == _VERSION else []
        return []

    def _write(self, starts: list[_Kind]) -> None:
        """All or nothing: a reader, or a sidecar beside us, sees the old file or the new one."""
        content = msgspec.json.encode(_File(_VERSION, starts[-MAX_MODELS:]))
        new = self._path.with_name(f".{self._path.name}.{os.getpid()}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                new.write_bytes(content)
                new.replace(self._path)
            finally:
                new.unlink(missing_ok=True)
        except OSError as error:
            _log.debug("%s is not kept: %s", self._path.name, error)


class StartHistory:
    """How long starts took."""

    def __init__(self, path: Path) -> None:
        self._file = _History(path, _Duration)

    def expected(self, model: str) -> dict[Phase, float]:
        """Seconds of each phase of the newest start of this model; empty where none is known."""
        start = self._file.newest(model)
        return {} if start is None else start.seconds

    def remember(self, model: str, phase_seconds: Mapping[Phase, float]) -> None:
        """Keep the start phases of a start that became ready, in place of the one before."""
        seconds = {p: round(phase_seconds[p], 2) for p in START_PHASES if p in phase_seconds}
        self._file.keep(_Duration(model, seconds))


class MemoryHistory(_History[Footprint]):
    """How much memory starts took."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Footprint)
