"""`keys`: make an API key."""

from __future__ import annotations

from proxy.commands import complain
from proxy.errors import SettingsError
from proxy.settings.keys import new_key_line


def main(label: str | None = None) -> int:
    """Print a new key as `label:key`; 2 where the label cannot be one."""
    try:
        print(new_key_line(label))
    except SettingsError as error:
        complain(error)
        return 2
    return 0
