"""examples/client.py: imported, and run as its own text says."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import APIError

from examples.client import Client, main, media_url
from tests.engine.service import Line
from tests.fake_engine import FakeEngine
from tests.readme import ROOT
from tests.wire.service import Sidecar

PICTURE = ROOT / "examples" / "picture.png"
VIDEO = ROOT / "examples" / "video.mp4"
TOKENS = 5


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    with (
        FakeEngine() as engine,
        Sidecar(tmp_path_factory.mktemp("sidecar"), engine) as sidecar,
    ):
        sidecar.wait_until_ready()
        yield sidecar


@pytest.fixture
def client(sidecar: Sidecar) -> Iterator[Client]:
    client = Client(f"{sidecar.url}/v1")
    with client.openai:
        yield client


def test_each_call_has_its_text_usage_and_times(client: Client) -> None:
    answer = client.chat("Say hello.", max_tokens=TOKENS)
    assert answer.text
    assert answer.usage is not None
    assert answer.usage.completion_tokens == TOKENS
    assert answer.ttft_seconds is not None
    assert 0 < answer.ttft_seconds <= answer.total_seconds
    assert answer.finish_reason == "length"


def test_a_stream_yields_the_text_of_its_answer(client: Client) -> None:
    stream = client.stream("Say hello.", max_tokens=TOKENS)
    assert "".join(stream) == stream.answer.text != ""


def chats(sidecar: Sidecar) -> list[Line]:
    return [line for line in sidecar.access_lines() if line["route"] == "chat"]


def test_pictures_and_a_video_reach_the_engine(client: Client, sidecar: Sidecar) -> None:
    before = len(chats(sidecar))
    images = [str(PICTURE), PICTURE, PICTURE.read_bytes(), media_url(PICTURE)]
    assert client.chat("What is here?", images=images, video=VIDEO, max_tokens=1).text
    (line,) = chats(sidecar)[before:]
    assert line["modalities"] == ["text", "image", "video"]
    assert line["images"] == 4


def test_media_are_addresses_data_urls_files_or_bytes() -> None:
    picture = f"data:image/png;base64,{base64.b64encode(PICTURE.read_bytes()).decode()}"
    assert media_url(PICTURE) == media_url(PICTURE.read_bytes()) == media_url(picture) == picture
    assert media_url("https://example.com/a.jpg") == "https://example.com/a.jpg"
    assert media_url(VIDEO).startswith("data:video/mp4;base64,")
    assert media_url(VIDEO.read_bytes()) == media_url(VIDEO)
    with pytest.raises(ValueError, match="allowed are PNG, JPEG"):
        media_url(b"text")
    with pytest.raises(FileNotFoundError):
        media_url("none.png")


def test_a_refused_request_raises_what_the_engine_said(sidecar: Sidecar) -> None:
    wrong = Client(f"{sidecar.url}/v1", model="nobody")
    with wrong.openai, pytest.raises(APIError, match="nobody"):
        wrong.chat("Say hello.")


def test_the_media_that_are_shipped_are_small() -> None:
    for path in (PICTURE, VIDEO):
        assert 0 < path.stat().st_size < 100_000


def arguments(sidecar: Sidecar, *more: str) -> list[str]:
    return ["examples/client.py", "What is here?", *more, "--base-url", f"{sidecar.url}/v1"]


def test_it_runs_as_a_program(sidecar: Sidecar) -> None:
    command = [sys.executable, *arguments(sidecar)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for text in ("model: ", "answer tokens in ", "first token after "):
        assert text in done.stdout


@pytest.mark.parametrize("media", [("--image", PICTURE), ("--video", VIDEO)])
def test_the_program_takes_media(
    sidecar: Sidecar, media: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(chats(sidecar))
    monkeypatch.setattr(sys, "argv", arguments(sidecar, *map(str, media)))
    assert main() == 0
    (line,) = chats(sidecar)[before:]
    assert line["modalities"] == ["text", media[0].removeprefix("--")]


def test_a_file_that_is_not_there_is_one_line(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", arguments(sidecar, "--image", "none.png"))
    assert main() == 1
    written = capsys.readouterr().err
    assert written.startswith("failed: ")
    assert written.count("\n") == 1
