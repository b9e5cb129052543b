"""One sidecar and one fake engine for all tests that only send them something."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

from tests.fake_engine import FakeEngine
from tests.wire.service import Sidecar

# A test that takes longer hangs.
TEST_SECONDS = 180


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """No test hangs: this one does without a plugin."""

    def on_alarm(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the test took longer than {TEST_SECONDS} s")

    before = signal.signal(signal.SIGALRM, on_alarm)
    signal.alarm(TEST_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="session")
def shared_engine() -> Iterator[FakeEngine]:
    with FakeEngine("--disable-uvicorn-access-log", "--served-model-name", "tiny") as engine:
        yield engine


@pytest.fixture(scope="session")
def shared_service(
    shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    with Sidecar(tmp_path_factory.mktemp("wire"), shared_engine) as service:
        service.wait_until_ready()
        yield service


@pytest.fixture
def service(shared_service: Sidecar) -> Iterator[Sidecar]:
    """The sidecar; whatever a test did to it, nothing is left in flight and nothing crashed."""
    shared_service.engine.reset()
    printed = len(shared_service.other_lines())
    yield shared_service
    try:
        shared_service.wait_until_idle()
    except AssertionError:
        shared_service.restart()  # the next test must not pay for this one
        raise
    news = [line for line in shared_service.other_lines()[printed:] if "Traceback" in line]
    assert not news, news


@pytest.fixture
def own_service(tmp_path: Path) -> Iterator[Sidecar]:
    """A sidecar and an engine for one test, which may leave them in any state."""
    names = ("--disable-uvicorn-access-log", "--served-model-name", "tiny")
    with FakeEngine(*names) as engine, Sidecar(tmp_path, engine) as service:
        service.wait_until_ready()
        yield service
        service.process.kill()  # what it left behind is not waited for


@pytest.fixture
def engine(service: Sidecar) -> FakeEngine:
    return service.engine


@pytest.fixture(scope="session")
def impatient_service(
    shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    """Short limits, and yet longer than an engine on a crowded machine stands still."""
    limits = {"REQUEST_TIMEOUT": "3", "STREAM_IDLE_TIMEOUT": "1"}
    with Sidecar(tmp_path_factory.mktemp("impatient"), shared_engine, **limits) as service:
        service.wait_until_ready()
        yield service
