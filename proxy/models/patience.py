"""Waiting for huggingface_hub, which in places waits for ever."""

from __future__ import annotations

import concurrent.futures
import logging
import re
import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

TICK_SECONDS = 0.5
_ANNOUNCED_WAIT = re.compile(r"Rate limited\. Waiting ([\d.]+)s")


class Patience(logging.Handler):
    """Expires when nothing was heard for `seconds`.

    It listens to hub's log: a wait that the hub asked for (HTTP 429) is not silence.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self._deadline = time.monotonic() + seconds

    def renew(self, extra_seconds: float = 0.0) -> None:
        deadline = time.monotonic() + self.seconds + extra_seconds
        self._deadline = max(self._deadline, deadline)

    def expired(self) -> bool:
        return time.monotonic() > self._deadline

    def emit(self, record: logging.LogRecord) -> None:
        wait = _ANNOUNCED_WAIT.search(record.getMessage())
        if wait:
            self.renew(float(wait[1]))


def watch(work: Callable[[], T], tick: Callable[[], None], patience: Patience) -> T:
    """Run `work` in a thread and `tick` beside it; an error of either ends the wait.

    After an error of `tick` the thread goes on: end the process with `os._exit`.
    """
    log = logging.getLogger("huggingface_hub")
    log.addHandler(patience)
    result: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while not concurrent.futures.wait([result], timeout=TICK_SECONDS).done:
            tick()
        return result.result()
    finally:
        log.removeHandler(patience)
