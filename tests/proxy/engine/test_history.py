"""The file that remembers how long starts took."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.engine.history import MAX_MODELS, StartHistory
from proxy.engine.phase import Phase

SECONDS = {Phase.LOADING: 20.0, Phase.COMPILING: 30.5, Phase.WARMING: 0.25}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sidecar" / "starts.json"


def test_what_is_remembered_is_expected_by_the_next_process(path: Path) -> None:
    StartHistory(path).remember("a", {**SECONDS, Phase.CHECKING: 9.0, Phase.DOWNLOADING: 99.0})
    assert StartHistory(path).expected("a") == SECONDS
    assert StartHistory(path).expected("b") == {}


def test_the_newest_start_of_a_model_counts(path: Path) -> None:
    history = StartHistory(path)
    history.remember("a", SECONDS)
    history.remember("b", SECONDS)
    history.remember("a", {Phase.LOADING: 3.0})
    assert history.expected("a") == {Phase.LOADING: 3.0}
    assert history.expected("b") == SECONDS


def test_the_oldest_models_are_forgotten(path: Path) -> None:
    history = StartHistory(path)
    for number in range(MAX_MODELS + 5):
        history.remember(f"model {number}", SECONDS)
    assert history.expected("model 4") == {}
    assert history.expected("model 5") == SECONDS
    assert len(json.loads(path.read_bytes())["starts"]) == MAX_MODELS


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\x00",
        b'{"version": 1, "starts": [{"model": "a", "seconds": {"loading": "x"}}]}',
        b'{"version": 1, "starts": [{"model": "a", "seconds": {"flying": 1}}]}',
        b'{"version": 2, "starts": []}',
        b" " * 1_000_000,
    ],
)
def test_a_file_that_cannot_be_read_is_as_good_as_none(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    history = StartHistory(path)
    assert history.expected("a") == {}
    history.remember("a", SECONDS)
    assert history.expected("a") == SECONDS


def test_a_file_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "sidecar").write_text("a file where the folder should be")
    history = StartHistory(tmp_path / "sidecar" / "starts.json")
    history.remember("a", SECONDS)
    assert history.expected("a") == {}


def test_a_folder_in_its_place_is_no_failure_and_leaves_nothing(path: Path) -> None:
    path.mkdir(parents=True)
    StartHistory(path).remember("a", SECONDS)
    assert StartHistory(path).expected("a") == {}
    assert [each.name for each in path.parent.iterdir()] == ["starts.json"]
