"""`python -m tests.fork_server.state [CODE|exit|wait]`: prints what a process can say of itself."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

_LIMITS = ("CORE", "DATA", "FSIZE", "MEMLOCK", "NOFILE", "NPROC", "STACK")


def main() -> None:
    words = sys.argv[1:]
    state = {
        "arguments": sys.argv,
        "cwd": str(Path.cwd()),
        "descriptors": sorted(each.name for each in Path("/proc/self/fd").iterdir()),
        "environ": dict(os.environ),
        "flags": str(sys.flags),
        "gc": [gc.isenabled(), gc.get_threshold()],
        "leads_session": os.getsid(0) == os.getpid(),
        "limits": [resource.getrlimit(getattr(resource, f"RLIMIT_{each}")) for each in _LIMITS],
        "group": os.getpgrp() if os.getpgrp() != os.getpid() else "its own",
        "nice": os.nice(0),
        "path": sys.path,
        "signals": {str(each): str(signal.getsignal(each)) for each in signal.valid_signals()},
        "streams": [repr(each) for each in (sys.stdin, sys.stdout, sys.stderr)],
        "buffered": [sys.stdout.line_buffering, sys.stdout.isatty()],
        "threads": threading.active_count(),
        "umask": os.umask(0o077),
        "warnings": [str(each) for each in warnings.filters],
    }
    print(json.dumps(state, default=str))
    if words == ["wait"]:
        sys.stdout.flush()
        time.sleep(3600)
    if words == ["raise"]:
        raise RuntimeError("on purpose")
    sys.exit(int(words[0]))


if __name__ == "__main__":
    main()
