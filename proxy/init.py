"""What PID 1 of a container owes it, where no init such as tini was put there.

The kernel hands every orphan to PID 1, and only PID 1 can collect it when it ends; until then it
stays in the process table. So PID 1 does nothing else: it starts the sidecar as its child.
"""

from __future__ import annotations

import os
import signal

_PASSED_ON = (
    *(signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT),
    *(signal.SIGUSR1, signal.SIGUSR2),
)


def serve_as_child() -> int | None:
    """Fork. None in the child, which goes on; in the parent the child's exit code, at its end.

    Must be called before there are threads. Killed by signal N, the code is 128 + N.
    """
    # None gets lost between the fork and the moment when it is handled.
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)
    child = os.fork()
    if not child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
        return None
    for number in _PASSED_ON:
        signal.signal(number, lambda received, _: os.kill(child, received))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
