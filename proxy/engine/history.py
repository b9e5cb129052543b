"""What earlier starts took: small files beside the model cache, one for time and one for memory.

They only make the next start better, so whatever is wrong with one is no failure: a file that
cannot be read is as good as none, one that cannot be written stays as it was.
"""

from __future__ import annotations

import logging
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

_log = logging.getLogger("proxy.engine")

MAX_MODELS = 64
_MAX_FILE_BYTES = 256 * 1024
# Each model has a thread that writes.
_writing = threading.Lock()


class Footprint(msgspec.Struct, frozen=True):
    """The memory that an engine took when nothing else changed on its devices."""

    device_bytes: int
    """Of each of its GPUs, the most of any; of the machine where there is none."""
    kv_cache_bytes: int | None = None
    """Part of that, on each GPU. 0: the model has none; None: unknown."""
    asleep_bytes: int | None = None
    """What it still held of each GPU when it slept; None: unknown."""


_Kind = TypeVar("_Kind")


class History(Generic[_Kind]):
    """One such file: what the newest start of each model took. `model` says what was started on
    what, in words."""

    def __init__(self, path: Path, kind: type[_Kind]) -> None:
        self._path = path
        self._decoder: msgspec.json.Decoder[dict[str, _Kind]] = msgspec.json.Decoder(
            dict[str, kind]  # type: ignore[valid-type]
        )

    def newest(self, model: str) -> _Kind | None:
        return self._read().get(model)

    def keep(self, model: str, taken: _Kind) -> None:
        """In place of the one before."""
        with _writing:
            starts = self._read()
            starts.pop(model, None)  # the newest comes last
            starts[model] = taken
            self._write(dict(list(starts.items())[-MAX_MODELS:]))

    def forget(self, model: str) -> None:
        with _writing:
            starts = self._read()
            starts.pop(model, None)
            self._write(starts)

    def _read(self) -> dict[str, _Kind]:
        with suppress(OSError, msgspec.DecodeError):
            if self._path.stat().st_size <= _MAX_FILE_BYTES:
                return self._decoder.decode(self._path.read_bytes())
        return {}

    def _write(self, starts: dict[str, _Kind]) -> None:
        """All or nothing: a reader, or a sidecar beside us, sees the old file or the new one."""
        new = self._path.with_name(f".{self._path.name}.{os.getpid()}.new")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                new.write_bytes(msgspec.json.encode(starts))
                new.replace(self._path)
            finally:
                new.unlink(missing_ok=True)
        except OSError as error:
            _log.debug("%s is not kept: %s", self._path.name, error)
