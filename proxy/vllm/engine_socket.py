"""The Unix socket of an engine that nobody but the sidecar may reach."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from proxy.errors import SettingsError

# What the address of a Unix socket may have on every system.
_MAX_PATH_BYTES = 103
_ONLY_US = 0o600


class EngineSocket:
    """A path in a folder that only this user can enter; both are gone after `close`."""

    def __init__(self) -> None:
        """Raises SettingsError."""
        try:
            self._folder = TemporaryDirectory(prefix="vllm-sidecar-")
        except OSError as error:
            raise SettingsError(
                f"TMPDIR: no folder can be made for the engine's socket ({error.strerror});"
                " allowed is a folder that can be written to"
            ) from None
        self.path = Path(self._folder.name, "engine.sock")
        if len(bytes(self.path)) > _MAX_PATH_BYTES:
            self.close()
            raise SettingsError(
                f"TMPDIR: the path of the engine's socket would have more than {_MAX_PATH_BYTES}"
                f" bytes ({self.path}); allowed is a shorter one, such as /tmp"
            )

    def clear(self) -> None:
        """Before a start: vLLM does not take away what a process that was killed has left."""
        self.path.unlink(missing_ok=True)

    def protect(self) -> None:
        """Once the engine listens: it leaves the mode to the umask."""
        with suppress(OSError):
            self.path.chmod(_ONLY_US)

    def close(self) -> None:
        self._folder.cleanup()
