"""Scans of texts that are known to be small."""

from __future__ import annotations

from proxy.json_scan import Result, Scan


def in_one_go(scan: Scan[Result]) -> Result:
    """The result of a scan; no event loop gets a turn between its slices."""
    while True:
        try:
            next(scan)
        except StopIteration as end:
            result: Result = end.value
            return result
