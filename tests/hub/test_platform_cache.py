"""RunPod's cached models: found where its documentation says, and served without the hub."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import Mock

import pytest

from proxy.models.events import Done
from proxy.models.platform_cache import find_snapshot
from tests.fake_hub import FakeHub
from tests.hub.child import download
from tests.hub.conftest import SMALL

pytestmark = pytest.mark.hub

OLD, NEW = "1" * 40, "2" * 40
FILES = ("config.json", "tokenizer.json", "model.safetensors")


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    return tmp_path / "runpod-volume/huggingface-cache/hub"


def put(platform: Path, commit: str, *names: str, at: float = 0, repo: str = SMALL) -> Path:
    """A snapshot as the platform leaves one: files in a folder, no refs, no blobs."""
    folder = platform / f"models--{repo.replace('/', '--')}" / "snapshots" / commit
    folder.mkdir(parents=True)
    for name in names or FILES:
        (folder / name).write_text("{}")
    os.utime(folder, (at, at))
    return folder


@pytest.mark.parametrize(("repo", "options"), [(SMALL, ()), (SMALL.upper(), ("--check",))])
def test_a_cached_model_is_served_without_a_question_to_the_hub(
    hub: FakeHub, home: Path, platform: Path, repo: str, options: tuple[str, ...]
) -> None:
    folder = put(platform, NEW)
    outcome = download(hub.url, home, repo, "--platform-cache", str(platform), *options)
    assert outcome.one(Done) == Done(path=str(folder), revision=NEW)
    assert outcome.code == 0
    assert not hub.requests
    assert f"already on this machine: {folder}" in outcome.stderr


def test_the_newest_snapshot_is_taken_unless_a_commit_is_asked_for(
    hub: FakeHub, home: Path, platform: Path
) -> None:
    put(platform, NEW, at=2000)
    old = put(platform, OLD, at=1000)
    cache = ("--platform-cache", str(platform))
    assert download(hub.url, home, SMALL, *cache).one(Done).revision == NEW
    asked = download(hub.url, home, SMALL, *cache, "--revision", OLD).one(Done)
    assert (asked.path, asked.revision) == (str(old), OLD)
    assert not hub.requests


@pytest.mark.parametrize(
    ("names", "revision"),
    [(("config.json", "tokenizer.json"), None), (FILES, "main")],
    ids=["without its weights", "a branch is asked for"],
)
def test_what_is_not_the_model_asked_for_is_downloaded(
    hub: FakeHub, home: Path, platform: Path, names: tuple[str, ...], revision: str | None
) -> None:
    put(platform, NEW, *names)
    options = ("--revision", revision) if revision else ()
    outcome = download(hub.url, home, SMALL, "--platform-cache", str(platform), *options)
    assert Path(outcome.one(Done).path).is_relative_to(home)


def test_a_cached_model_that_may_not_be_read_is_downloaded(
    platform: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(platform, NEW)
    monkeypatch.setattr(Path, "exists", Mock(side_effect=PermissionError))
    assert find_snapshot(platform, SMALL, None) is None


def test_a_cache_that_is_ours_is_asked_about_at_the_hub(hub: FakeHub, tmp_path: Path) -> None:
    home = tmp_path / "hf"
    put(home / "hub", OLD)
    outcome = download(hub.url, home, SMALL, "--platform-cache", str(home / "hub"))
    assert outcome.one(Done).revision != OLD
    assert hub.requests


@pytest.mark.parametrize("text", ['{"weight_map": null}', "[" * 100_000])
def test_a_cached_model_whose_list_of_shards_is_spoiled_is_fetched(
    hub: FakeHub, home: Path, platform: Path, text: str
) -> None:
    folder = put(platform, NEW)
    (folder / "model.safetensors.index.json").write_text(text)
    outcome = download(hub.url, home, SMALL, "--platform-cache", str(platform))
    assert outcome.one(Done).path.startswith(str(home))
    assert "Traceback" not in outcome.stderr
