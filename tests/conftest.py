"""What holds for all tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.measure import hold_back

_HERE = Path(__file__).parent
# The files that take longest begin first: at the end no process waits for another one's.
_LONGEST_FIRST = (
    "engine/test_serve.py",
    "engine/test_several_models.py",
    "engine/test_sleep.py",
    "engine/test_wedge.py",
    "engine/test_swaps.py",
    "engine/test_reconciliation.py",
    "proxy/engine/test_wedged_engine.py",
    "gateway/test_gateway.py",
    "proxy/engine/test_lifecycle.py",
    "wire/test_media.py",
    "hub/test_download.py",
    "wire/test_swaps.py",
    "wire/test_slow_clients.py",
    "proxy/engine/test_deaths.py",
    "wire/test_reload.py",
    "page/test_dashboard_page.py",
    "test_readme.py",
    "openapi/test_openapi.py",
    "wire/test_sleep.py",
    "hub/test_failures.py",
    "proxy/engine/test_clients_that_retry.py",
    "wire/test_websocket_limits.py",
    "test_release.py",
    "fleet/test_fleet.py",
    "proxy/commands/test_check.py",
    "proxy/preflight/test_vllm_server.py",
    "proxy/commands/test_bench.py",
    "wire/test_log_output.py",
    "test_scripts.py",
    "wire/test_slow_readers.py",
    "proxy/test_environment.py",
    "test_package.py",
    "proxy/relay/test_stream.py",
)


# The same examples in every run, and no limit of time for one: the machine may stand still.
settings.register_profile("here", derandomize=True, deadline=None)
settings.load_profile("here")


def pytest_configure() -> None:
    hold_back()


@pytest.hookimpl(trylast=True)
def pytest_sessionstart() -> None:
    hold_back()  # a process of pytest-xdist begins to measure only now


def pytest_collection_finish() -> None:
    gc.freeze()  # what is there now need not be looked at again by `_nothing_is_left_open`


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """A socket or a file that nobody closed fails its own module, not one that runs later."""
    yield
    gc.collect()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first."""
    places = {_HERE / name: place for place, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: places.get(item.path, len(places)))
