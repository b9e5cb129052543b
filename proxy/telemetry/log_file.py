"""The file that gets the lines of stdout too (`LOG_FILE`)."""

from __future__ import annotations

import logging
import os
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path
from time import monotonic

from proxy.errors import SettingsError
from proxy.settings.environment import shown

# With the older files, `.1` the newest of them, 200 MiB at most.
MAX_BYTES = 50 * 1024 * 1024
OLDER_FILES = 3
_TELL_AGAIN_SECONDS = 60.0

_log = logging.getLogger("proxy.log_file")


class LogFile(RotatingFileHandler):
    """A file that cannot be written (the disk is full) loses lines, and stdout says so.

    Nothing else suffers: no request fails of it, and later lines are tried again.
    """

    def __init__(self, path: str) -> None:
        # An odd character must not cost the line it is in.
        super().__init__(
            path,
            maxBytes=MAX_BYTES,
            backupCount=OLDER_FILES,
            encoding="utf-8",
            errors="backslashreplace",
        )
        self._path = path
        self._told: float | None = None

    def handleError(self, record: logging.LogRecord) -> None:
        """Once a minute at most. The line about it comes here as well, and must end there."""
        now = monotonic()
        if self._told is None or now - self._told >= _TELL_AGAIN_SECONDS:
            self._told = now
            _log.error("LOG_FILE=%r cannot be written: %s", self._path, sys.exc_info()[1])


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
