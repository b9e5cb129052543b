"""Logging as it was before each test, and what stdout got."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from proxy.telemetry import logs
from tests.patience import PATIENCE

OURS = ("httpx", "httpcore", "asyncio", "proxy.access", "proxy.engine")
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
    if logs._handler is not None:
        logs._handler.close()
        logs._handler = None
    root.handlers[:] = handlers
    root.setLevel(level)
    for logger, old_level, filters in before:
        logger.setLevel(old_level)
        logger.filters[:] = filters
    for name, value in switches.items():
        setattr(logging, name, value)


@pytest.fixture
def lines(capfd: pytest.CaptureFixture[str]) -> Lines:
    def lines() -> list[str]:
        logs.flush(PATIENCE)
        out, err = capfd.readouterr()
        assert err == ""
        assert out == "" or out.endswith("\n")
        return out.split("\n")[:-1]

    return lines
