"""The file that gets the lines of stdout too (`LOG_FILE`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from proxy.errors import SettingsError
from proxy.settings.environment import shown
from proxy.telemetry.log_output import Descriptor

# With the older files, `.1` the newest of them, 200 MiB at most.
MAX_BYTES = 50 * 1024 * 1024
OLDER_FILES = 3


class LogFile:
    """Lines are appended; before the file grows over `MAX_BYTES` it is renamed to `.1`. One that
    somebody deletes or renames is made anew.

    One that cannot be written (the disk is full) or renamed loses lines; later ones are tried.
    """

    def __init__(self, path: str) -> None:
        """
        Raises:
            OSError: it cannot be opened.
        """
        self._path = Path(path)
        self._file = self._open()

    @property
    def inside_line(self) -> bool:
        return self._file.inside_line

    def write(self, lines: Sequence[bytes]) -> tuple[int, OSError | None]:
        """How many lines were lost, and why. All go into one file: a queue holds far less."""
        was_cut = self._file.inside_line
        try:
            if not self._is_there():
                self._open_anew()
            size = os.fstat(self._file.fd).st_size
            if was_cut and not size and self._path.is_file():
                # Somebody has emptied it: the rest of a line would be its first one.
                self._file = Descriptor(self._file.fd)
            if size and size + sum(map(len, lines)) > MAX_BYTES and self._path.is_file():
                older = [Path(f"{self._path}.{count + 1}") for count in range(OLDER_FILES)]
                names = list(zip(older, [self._path, *older], strict=False))
                for target, source in reversed(names):
                    if source.exists():
                        source.rename(target)
                self._open_anew()
        except OSError as refused:
            return len(lines), refused
        is_torn = was_cut and not self._file.inside_line  # its rest has no file to go to
        lost, error = self._file.write(lines)
        return lost + is_torn, error

    def close(self) -> None:
        os.close(self._file.fd)

    def _is_there(self) -> bool:
        """False where somebody has deleted or renamed it: what is written then is in no file that
        can be found, and takes room without a bound."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file.fd))
        except OSError:  # `ESTALE`, where that was done on another machine
            return False

    def _open_anew(self) -> None:
        before, self._file = self._file, self._open()
        os.close(before.fd)

    def _open(self) -> Descriptor:
        return Descriptor(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666))


def open_log_file(path: str) -> LogFile:
    """The file, opened for more lines; folders that are missing are made.

    Raises:
        SettingsError: it cannot be written, or not be rotated.
    """
    place = Path(path)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        # Opening a pipe waits for its reader. A device (`/dev/stderr`) is never rotated.
        if place.exists() and not (place.is_file() or place.is_char_device()):
            raise _refused(path, "it is no file")
        if not place.is_char_device() and not os.access(place.parent, os.W_OK | os.X_OK):
            raise _refused(path, "its folder cannot be written, so it could not be rotated")
        return LogFile(path)
    except OSError as error:
        raise _refused(path, error.strerror or str(error)) from None


def _refused(path: str, why: str) -> SettingsError:
    allowed = "allowed is a file that can be written, in a folder that can be written"
    return SettingsError(f"LOG_FILE={shown(path)}: {why}; {allowed}")
