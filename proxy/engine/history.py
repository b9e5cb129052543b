"""How long earlier starts took: a small file beside the model cache.

It only makes the next estimate better, so whatever is wrong with it is no failure: a file
that cannot be read is as good as none, one that cannot be written stays as it was.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from proxy.engine.phase import Phase

_log = logging.getLogger("proxy.engine")

START_PHASES = (Phase.LOADING, Phase.COMPILING, Phase.WARMING)
"""What every start of the engine process goes through, in this order."""

MAX_MODELS = 64
_MAX_FILE_BYTES = 256 * 1024
_VERSION = 1


class _Start(msgspec.Struct):
    """The last start that became ready; seconds for each of its phases."""

    model: str
    seconds: dict[Phase, float]


class _File(msgspec.Struct):
    version: int
    starts: list[_Start]
    """Newest last."""


class StartHistory:
    """The file; `model` says what was started on what, in words."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def expected(self, model: str) -> dict[Phase, float]:
        """Seconds of each phase of the newest start of this model; empty where none is known."""
        found = (start.seconds for start in reversed(self._read()) if start.model == model)
        return next(found, {})

    def remember(self, model: str, phase_seconds: Mapping[Phase, float]) -> None:
        """Keep the start phases of a start that became ready, in place of the one before."""
        seconds = {p: round(phase_seconds[p], 2) for p in START_PHASES if p in phase_seconds}
        others = [start for start in self._read() if start.model != model]
        starts = [*others, _Start(model, seconds)][-MAX_MODELS:]
        try:
            self._write(msgspec.json.encode(_File(_VERSION, starts)))
        except OSError as error:
            _log.debug("the times of this start are not kept: %s", error)

    def _read(self) -> list[_Start]:
        with suppress(OSError, msgspec.DecodeError):
            if self._path.stat().st_size <= _MAX_FILE_BYTES:
                file = msgspec.json.decode(self._path.read_bytes(), type=_File)
                return file.starts if file.version == _VERSION else []
        return []

    def _write(self, content: bytes) -> None:
        """All or nothing: a reader, or a sidecar beside us, sees the old file or the new one."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(f".{self._path.name}.{os.getpid()}.new")
        try:
            new.write_bytes(content)
            new.replace(self._path)
        finally:
            new.unlink(missing_ok=True)
