"""A keeper between the sidecar and a child: whatever happens to the sidecar, nothing stays.

    python3 -m proxy.engine.guard COMMAND [ARGUMENT...]

vLLM is a tree of processes, and stock vLLM leaves its engine core and workers running
(and holding the GPU) when its main process is killed. The guard starts the command,
adopts whatever is orphaned below it, and ends all of it

- when the command has exited,
- when its standard input ends: the sidecar closed it, or died, even by SIGKILL.

SIGTERM and SIGINT are passed to the command alone, because a signal to the workers would
break the requests that are still running. The exit code is the command's; killed by
signal N it is 128 + N. Standard library only, so that it starts in milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
# Python's resource tracker removes shared memory that killed processes left behind;
# it is given this long to do so before it is killed too.
_TRACKER_SECONDS = 5.0
_POLL_SECONDS = 0.05


def main(command: list[str]) -> int:
    """Run `command` until it or our standard input ends."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)

    def die_with_the_guard() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)

    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=die_with_the_guard)
    except OSError as error:
        print(f"cannot run {command[0]}: {error.strerror}", file=sys.stderr)
        return 127
    code = _watch(child, wake_read)
    _end_descendants()
    return code if code >= 0 else 128 - code


def _watch(child: subprocess.Popen[bytes], wake_read: int) -> int:
    """Pass signals on and reap, until the command exits or our standard input ends."""
    while True:
        readable, _, _ = select.select([wake_read, sys.stdin], [], [])
        if sys.stdin in readable and not os.read(sys.stdin.fileno(), 4096):
            child.kill()
            return child.wait()
        if wake_read in readable:
            for number in os.read(wake_read, 4096):
                if number in (signal.SIGTERM, signal.SIGINT):
                    child.send_signal(number)
        if (code := child.poll()) is not None:
            return code
        _reap(except_pid=child.pid)


def _end_descendants() -> None:
    """Kill what is left of the tree; the resource tracker goes last."""
    for pid in list(_descendants()):
        with suppress(OSError):
            if b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                continue
        _kill(pid)
    deadline = time.monotonic() + _TRACKER_SECONDS
    while any(True for _ in _descendants()) and time.monotonic() < deadline:
        _reap()
        time.sleep(_POLL_SECONDS)
    for pid in list(_descendants()):
        _kill(pid)
    _reap()


def _descendants() -> Iterator[int]:
    """Living processes below this one. Orphans are ours too: we are their subreaper."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # The name, in parentheses, may itself hold spaces and parentheses.
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state != "Z" or int(entry.name) == os.getpid():
                    parents[int(entry.name)] = int(parent)
    for pid in parents:
        ancestor = pid
        while ancestor in parents and ancestor != os.getpid():
            ancestor = parents[ancestor]
        if ancestor == os.getpid() and pid != os.getpid():
            yield pid


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _reap(except_pid: int | None = None) -> None:
    """Collect zombies that were re-parented to us, but not the command itself."""
    with suppress(ChildProcessError):
        while True:
            info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if info is None or info.si_pid == except_pid:
                return
            os.waitpid(info.si_pid, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
