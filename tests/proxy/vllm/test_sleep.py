"""vLLM put to sleep and woken, by its socket. The fake engine does what the real one might."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from proxy.engine.server import SleepFailed, WakeFailed
from proxy.errors import SettingsError
from proxy.machine.memory import DeviceMemory
from proxy.machine.pinned_memory import PinnedMemory
from proxy.relay.unix_transport import UnixTransport
from proxy.vllm import sleep
from proxy.vllm.engine_socket import EngineSocket
from proxy.vllm.probe import Probe
from proxy.vllm.sleep import VllmSleeper
from tests.fake_engine import FakeEngine

GIB = 1024**3
MODEL = "Qwen/Qwen3-0.6B"


@contextmanager
def engine_of(socket: EngineSocket, **scenario: str) -> Iterator[FakeEngine]:
    environ = {f"FAKE_ENGINE_{name.upper()}": text for name, text in scenario.items()}
    environ["VLLM_SERVER_DEV_MODE"] = "1"
    with FakeEngine(environment=environ, uds=socket.path) as engine:
        yield engine


@pytest.fixture
def socket() -> Iterator[EngineSocket]:
    socket = EngineSocket()
    yield socket
    socket.close()


@asynccontextmanager
async def both(
    socket: EngineSocket, pinned: PinnedMemory | None = None, **scenario: str
) -> AsyncIterator[tuple[FakeEngine, VllmSleeper]]:
    """An engine, and who puts it to sleep."""
    probe = Probe("http://127.0.0.1:8001", UnixTransport(str(socket.path)))
    sleeper = VllmSleeper(probe.client, "one", pinned or roomy(), socket)
    sleeper.weights_bytes = 16 * GIB
    with engine_of(socket, **scenario) as engine:
        yield engine, sleeper
    await probe.close()


def roomy() -> PinnedMemory:
    return PinnedMemory(lambda: DeviceMemory(0, 64 * GIB))


async def test_a_whole_cycle(socket: EngineSocket) -> None:
    async with both(socket) as (engine, sleeper):
        assert sleeper.obstacle() is not None, "nothing was recorded yet"
        await sleeper.prepare(MODEL)
        assert sleeper.obstacle() is None
        await sleeper.sleep()
        await sleeper.wake(MODEL)
        await sleeper.sleep()
        await sleeper.wake(MODEL)
        assert sleeper.obstacle() is None
        requests = engine.requests()
    sleeps = [each for each in requests if each.target.startswith("/sleep")]
    parameters = [parse_qs(each.target.partition("?")[2]) for each in sleeps]
    assert parameters == [{"level": ["1"], "mode": ["wait"]}] * 2
    assert [each.body_bytes for each in sleeps] == [0, 0], "a body is ignored in silence"
    canaries = [json.loads(each.body) for each in requests if each.target.startswith("/v1/")]
    pictures, texts = canaries[::2], canaries[1::2]
    assert len(pictures) == len(texts) == 3
    assert pictures[0] == pictures[1] == pictures[2]
    assert pictures[0]["messages"][0]["content"][1]["image_url"]["url"].startswith("data:image/png")
    assert {(each["temperature"], each["max_tokens"]) for each in canaries} == {(0, 8)}


def test_only_this_user_may_reach_the_socket(socket: EngineSocket) -> None:
    assert stat.S_IMODE(socket.path.parent.stat().st_mode) == 0o700
    with engine_of(socket):
        socket.protect()
        assert stat.S_IMODE(socket.path.stat().st_mode) == 0o600
    socket.path.touch()
    socket.clear()
    assert not socket.path.exists()
    socket.close()
    assert not socket.path.parent.exists()


def test_a_path_that_is_too_long_for_a_socket_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    with pytest.raises(SettingsError, match=r"^TMPDIR: .* allowed is a shorter one"):
        EngineSocket()
    assert not list(folder.iterdir())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match=r"^TMPDIR: .* allowed is a folder"):
        EngineSocket()


@pytest.mark.parametrize(
    ("ending", "says"),
    [("fail", "/sleep answered 500"), ("hang", "ReadTimeout"), ("lie", "says that it does not")],
)
async def test_a_sleep_that_fails(
    socket: EngineSocket, monkeypatch: pytest.MonkeyPatch, ending: str, says: str
) -> None:
    monkeypatch.setattr(sleep, "SLEEP_SECONDS", 0.3)
    async with both(socket, sleep=ending) as (_, sleeper):
        await sleeper.prepare(MODEL)
        with pytest.raises(SleepFailed, match=says):
            await sleeper.sleep()


@pytest.mark.parametrize(
    ("ending", "says"),
    [
        ("fail", "/wake_up answered 500"),
        ("hang", "ReadTimeout"),
        ("part", "says that it is sleeping"),
        ("other", "answers with other tokens than before"),
    ],
)
async def test_after_a_wake_that_fails_it_sleeps_no_more(
    socket: EngineSocket, monkeypatch: pytest.MonkeyPatch, ending: str, says: str
) -> None:
    monkeypatch.setattr(sleep, "WAKE_SECONDS", 0.3)
    async with both(socket, wake=ending) as (engine, sleeper):
        await sleeper.prepare(MODEL)
        await sleeper.sleep()
        with pytest.raises(WakeFailed, match=says):
            await sleeper.wake(MODEL)
        engine.stop()
        with engine_of(socket):  # started afresh
            await sleeper.prepare(MODEL)
        assert not sleeper.may_sleep
        assert sleeper.obstacle() == "a wake of it has failed"


async def test_an_engine_that_was_woken_and_does_not_answer(
    socket: EngineSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sleep, "CANARY_SECONDS", 0.3)
    async with both(socket) as (engine, sleeper):
        await sleeper.prepare(MODEL)
        await sleeper.sleep()
        engine.script("/v1/completions", hang=True)
        with pytest.raises(WakeFailed, match="does not answer /v1/completions"):
            await sleeper.wake(MODEL)


async def test_a_prompt_that_has_changed_proves_nothing(socket: EngineSocket) -> None:
    """A chat template may write the date into it."""
    page = {"prompt_token_ids": [1], "choices": [{"token_ids": [5, 6]}]}
    tomorrow = {"prompt_token_ids": [2], "choices": [{"token_ids": [7, 8]}]}
    async with both(socket) as (engine, sleeper):
        engine.script("/v1/chat/completions", body=json.dumps(page))
        await sleeper.prepare(MODEL)
        await sleeper.sleep()
        engine.script("/v1/chat/completions", body=json.dumps(tomorrow))
        await sleeper.wake(MODEL)
        await sleeper.sleep()
        same = {**page, "choices": [{"token_ids": [5, 7]}]}
        engine.script("/v1/chat/completions", body=json.dumps(same))
        with pytest.raises(WakeFailed, match="other tokens"):
            await sleeper.wake(MODEL)


async def test_a_model_without_pictures_is_asked_in_words(socket: EngineSocket) -> None:
    async with both(socket) as (engine, sleeper):
        engine.script("/v1/chat/completions", status=400, body="{}")
        await sleeper.prepare(MODEL)
        assert sleeper.obstacle() is None
        await sleeper.sleep()
        await sleeper.wake(MODEL)


async def test_a_model_that_generates_nothing_does_not_sleep(socket: EngineSocket) -> None:
    async with both(socket, tasks="embed") as (_, sleeper):
        await sleeper.prepare(MODEL)
        obstacle = sleeper.obstacle()
        assert not sleeper.may_sleep
    assert obstacle is not None
    assert "no tokens" in obstacle


async def test_the_weights_of_all_sleepers_have_to_fit(socket: EngineSocket) -> None:
    pinned = roomy()
    assert pinned.reserve("another", 24 * GIB) is None
    async with both(socket, pinned) as (_, sleeper):
        await sleeper.prepare(MODEL)
        obstacle = sleeper.obstacle()
        assert obstacle is not None
        assert "80.0 GiB of the machine's memory" in obstacle
        sleeper.weights_bytes = 8 * GIB
        assert sleeper.obstacle() is None
        assert pinned.reserve("third", 1) is not None, "what it pins counts from now on"
        await sleeper.sleep()
        assert pinned.reserve("third", 1) is not None
        sleeper.release()
        assert pinned.reserve("third", 1) is None, "until its process is gone"
        sleeper.weights_bytes = None
        assert sleeper.obstacle() == "the size of its weights is not known"
