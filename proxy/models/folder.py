"""Folders by the names that users give them: whatever the name is, nothing is raised."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path


def at_home(name: str) -> Path:
    """The folder, with `~` for somebody's home; a `~name` that nobody has stays as it is."""
    with suppress(RuntimeError):
        return Path(name).expanduser()
    return Path(name)


def is_folder(name: str) -> bool:
    """Whether there is one that this user may look at."""
    with suppress(OSError):
        return Path(name).is_dir()
    return False
