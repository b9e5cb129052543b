"""Starts LiteLLM's proxy as often as it is asked to, and imports it only once: that takes 15 s.

LiteLLM's own Python runs this. Each line of the input is one proxy: its arguments, its environment
and the file of its output, as JSON. Its process id is the answer. All of them end with the input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress

import litellm.proxy.proxy_server  # noqa: F401  which is what takes long
from litellm import run_server

children = []
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that end are gone at once
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, log), (2, log)):
            os.dup2(source, target)
        os.environ.update(order["environ"])
        sys.argv = ["litellm", *order["arguments"]]
        sys.exit(run_server())
    children.append(child)
    print(child, flush=True)
for child in children:
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
os._exit(0)  # to take apart what was imported takes seconds
