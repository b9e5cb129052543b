"""The start as one line at the bottom of a terminal.

Elsewhere the log tells the same: a line for each phase, and for each tenth of a download.
"""

from __future__ import annotations

from time import monotonic

from proxy.engine.phase import Phase
from proxy.engine.state import Snapshot
from proxy.terminal import bar

_CELLS = 24
_SHOWN = (Phase.CHECKING, Phase.DOWNLOADING, Phase.LOADING, Phase.COMPILING, Phase.WARMING)


def describe(now: Snapshot) -> str | None:
    """`downloading  [#####---]  42 %  1.2 of 3.0 GB  85 MB/s  0:21 left`; None after the start."""
    if now.phase not in _SHOWN:
        return None
    parts = [f"{now.phase:11}"]
    if now.progress is not None:
        parts += [bar(now.progress, _CELLS), f"{now.progress:4.0%}"]
    if now.phase is not Phase.DOWNLOADING:
        parts.append(_clock(monotonic() - now.since))
    elif now.downloaded_bytes is not None and now.download_bytes is not None:
        parts.append(f"{now.downloaded_bytes / 1e9:.2f} of {now.download_bytes / 1e9:.2f} GB")
        if now.bytes_per_second:
            parts.append(f"{now.bytes_per_second / 1e6:.1f} MB/s")
    if (left := now.seconds_left) is not None:
        parts.append(f"{_clock(left)} left")
    return "  ".join(parts)


def _clock(seconds: float) -> str:
    """`1:05`, `2:00:05`"""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
