"""Logging as it was before each test, and what stdout got."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

OURS = ("httpx", "httpcore", "uvicorn", "uvicorn.error", "asyncio", "proxy.access", "proxy.engine")
# What `configure` switches off for the whole process.
SWITCHES = ("logThreads", "logProcesses", "logMultiprocessing", "logAsyncioTasks", "_srcfile")

Lines = Callable[[], list[str]]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Logging is the process's own: put back what `configure` changes."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    loggers = [logging.getLogger(name) for name in OURS]
    before = [(logger, logger.level, logger.filters[:]) for logger in loggers]
    switches = {name: getattr(logging, name) for name in SWITCHES if hasattr(logging, name)}
    yield
    for handler in set(root.handlers) - set(handlers):
        with suppress(OSError):  # what a full disk did not take
            handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger, old_level, filters in before:
        logger.setLevel(old_level)
        logger.filters[:] = filters
    for name, value in switches.items():
        setattr(logging, name, value)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Lines:
    def lines() -> list[str]:
        out, err = capsys.readouterr()
        assert err == ""
        assert out == "" or out.endswith("\n")
        return out.split("\n")[:-1]

    return lines
