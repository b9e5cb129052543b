"""`python -m tests.fork_server FD PROGRAM MODULE...`: takes orders on a socket that it inherits.

One message is one order: arguments, environment and whether it leads a session, as JSON, with three
descriptors: where its exit code is sent, its stdout, its stderr. The answer is its process id.
All that were started end with the socket.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
from typing import NamedTuple

from tests.fork_server import LONGEST_ORDER


class Order(NamedTuple):
    """What the child becomes."""

    arguments: list[str]
    environ: dict[str, str]
    new_session: bool


class _Child(NamedTuple):
    pid: int
    exit_status: socket.socket


def next_child(orders: socket.socket) -> tuple[Order, list[int]]:
    """Fork for each order. Returns in a child only: its order, its stdout and its stderr."""
    selector = selectors.DefaultSelector()
    selector.register(orders, selectors.EVENT_READ)
    children: dict[int, _Child] = {}
    while True:
        for key, _ in selector.select():
            if key.fd in children:
                selector.unregister(key.fd)
                os.close(key.fd)
                _tell_end(children.pop(key.fd))
                continue
            message, (*descriptors,), _, _ = socket.recv_fds(orders, LONGEST_ORDER, 3)
            if not message:
                for each in children.values():
                    os.kill(each.pid, signal.SIGKILL)
                    os.waitpid(each.pid, 0)
                os._exit(0)  # to take apart what was imported takes time
            exit_status, *outputs = descriptors
            pid = os.fork()
            if not pid:
                # Not by their numbers: what collects the objects later would close others' then.
                orders.close()
                selector.close()
                os.close(exit_status)
                for descriptor, sibling in children.items():
                    os.close(descriptor)
                    sibling.exit_status.close()
                return Order(*json.loads(message)), outputs
            for output in outputs:
                os.close(output)
            watch = os.pidfd_open(pid)
            children[watch] = _Child(pid, socket.socket(fileno=exit_status))
            selector.register(watch, selectors.EVENT_READ)
            orders.send(str(pid).encode())


def _tell_end(child: _Child) -> None:
    _, status = os.waitpid(child.pid, 0)
    with child.exit_status as channel:
        try:
            channel.send(str(os.waitstatus_to_exitcode(status)).encode())
        except OSError:
            return  # nobody waits for it


def become(order: Order, outputs: list[int]) -> None:
    """What the shell would have made of a new process: descriptors, session, environment, words."""
    for descriptor, output in enumerate(outputs, 1):
        os.dup2(output, descriptor)
        os.close(output)
    if order.new_session:
        os.setsid()
    os.environ.clear()
    os.environ.update(order.environ)
    sys.argv = ["-m", *order.arguments]


def main() -> None:
    descriptor, program, *modules = sys.argv[1:]
    inherited = signal.signal(signal.SIGINT, signal.SIG_IGN)  # it ends with its socket
    for module in modules:
        importlib.import_module(module)
    assert threading.active_count() == 1, "a thread would be missing in what is forked"
    gc.collect()
    gc.freeze()  # what is shared stays shared
    become(*next_child(socket.socket(fileno=int(descriptor))))
    signal.signal(signal.SIGINT, inherited)
    runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
