#!/usr/bin/env python3
"""Runs commands, two at a time, and shows the output of each in the order they were given in.

    python3 scripts/side_by_side.py 'ruff check .' mypy

What the command that is shown prints is seen at once. All of them run, also after one has failed.
The exit code is 0 where all have succeeded; otherwise it is 1, and the last line names those that
failed.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

AT_ONCE = 2
LOOK_SECONDS = 0.2


def run(command: str, output: IO[bytes]) -> int:
    """The exit code. There is no shell, but patterns such as *.md are files."""
    words = []
    for word in shlex.split(command):
        files = sorted(map(str, Path().glob(word))) if "*" in word else []
        words += files or [word]
    try:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    except OSError as error:
        output.write(f"{error}\n".encode())
        return 127
    return done.returncode


def show(output: Path, command: Future[int]) -> None:
    """Prints what a command has written, and what it writes until its end."""
    with output.open("rb") as written:
        has_ended = False
        while not has_ended:
            has_ended = command.done()
            sys.stdout.buffer.write(written.read())
            sys.stdout.buffer.flush()
            wait([command], LOOK_SECONDS)


def main(commands: list[str]) -> int:
    failed = []
    with ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as pool:
        outputs = [stack.enter_context(NamedTemporaryFile(buffering=0)) for _ in commands]
        running = [pool.submit(run, *each) for each in zip(commands, outputs, strict=True)]
        for command, output, ending in zip(commands, outputs, running, strict=True):
            print(f"side by side: {command}", flush=True)
            show(Path(output.name), ending)
            if ending.result():
                failed.append(f"'{command}'")
    if failed:
        print(f"side by side: failed: {' '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
