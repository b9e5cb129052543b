#!/usr/bin/env python3
"""Runs commands, two at a time, and shows the output of each in the order they were given in.

    python3 scripts/side_by_side.py 'ruff check .' mypy

All of them run, also after one has failed. The exit code is 0 where all have succeeded; otherwise
it is 1, and the last line names those that failed.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

AT_ONCE = 2


def run(command: str) -> tuple[int, str]:
    """Exit code and output. There is no shell, but patterns such as *.md are files."""
    words = []
    for word in shlex.split(command):
        files = sorted(map(str, Path().glob(word))) if "*" in word else []
        words += files or [word]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        return 127, f"{error}\n"
    return done.returncode, done.stdout


def main(commands: list[str]) -> int:
    failed = []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for command, (code, output) in zip(commands, pool.map(run, commands), strict=True):
            print(f"check: {command}\n{output}", end="", flush=True)
            if code:
                failed.append(f"'{command}'")
    if failed:
        print(f"check: failed: {' '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
