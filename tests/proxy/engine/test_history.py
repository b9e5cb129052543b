"""The files that remember what starts took."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.engine.history import MAX_MODELS, Footprint, History
from proxy.engine.phase import Phase

SECONDS = {Phase.LOADING: 20.0, Phase.COMPILING: 30.5, Phase.WARMING: 0.25}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sidecar" / "starts.json"


def starts(path: Path) -> History[dict[Phase, float]]:
    return History(path, dict[Phase, float])


def test_what_is_kept_is_known_to_the_next_process(path: Path) -> None:
    starts(path).keep("a", SECONDS)
    assert starts(path).newest("a") == SECONDS
    assert starts(path).newest("b") is None


def test_memory_is_kept_likewise_and_forgotten_when_it_was_too_little(path: Path) -> None:
    history = History(path, Footprint)
    history.keep("a", Footprint(3, 2))
    history.keep("b", Footprint(5, None, 1))
    history.forget("a")
    assert History(path, Footprint).newest("a") is None
    assert History(path, Footprint).newest("b") == Footprint(5, None, 1)


def test_the_newest_start_of_a_model_counts(path: Path) -> None:
    history = starts(path)
    history.keep("a", SECONDS)
    history.keep("b", SECONDS)
    history.keep("a", {Phase.LOADING: 3.0})
    assert history.newest("a") == {Phase.LOADING: 3.0}
    assert history.newest("b") == SECONDS


def test_the_oldest_models_are_forgotten(path: Path) -> None:
    history = starts(path)
    for number in range(MAX_MODELS):
        history.keep(f"model {number}", SECONDS)
    history.keep("model 0", SECONDS)
    history.keep("another model", SECONDS)
    assert history.newest("model 1") is None
    assert history.newest("model 0") == history.newest("model 2") == SECONDS
    assert len(json.loads(path.read_bytes())) == MAX_MODELS


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b'{"a": {"loading": "x"}}',
        # As version 0.1.0 wrote it.
        b'{"version":1,"starts":[{"model":"a","seconds":{"loading":20.0,"warming":0.25}}]}',
        b" " * 1_000_000,
    ],
)
def test_a_file_that_cannot_be_read_is_as_good_as_none(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    history = starts(path)
    assert history.newest("a") is None
    history.keep("a", SECONDS)
    assert history.newest("a") == SECONDS


def test_a_file_that_cannot_be_written_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "sidecar").write_text("a file where the folder should be")
    history = starts(tmp_path / "sidecar" / "starts.json")
    history.keep("a", SECONDS)
    assert history.newest("a") is None


def test_a_folder_in_its_place_is_no_failure_and_leaves_nothing(path: Path) -> None:
    path.mkdir(parents=True)
    starts(path).keep("a", SECONDS)
    assert starts(path).newest("a") is None
    assert [each.name for each in path.parent.iterdir()] == ["starts.json"]
