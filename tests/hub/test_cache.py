"""Partial files of dead downloads."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

import pytest

from proxy.models.hub_cache import RepoCache, SnapshotSize

CONTENT = b"half a shard"


@pytest.fixture
def cache(tmp_path: Path) -> RepoCache:
    cache = RepoCache(tmp_path, "org/name")
    cache.blobs.mkdir(parents=True)
    (tmp_path / ".locks" / "models--org--name").mkdir(parents=True)
    return cache


def _partial(cache: RepoCache, name: str, idle_seconds: float) -> Path:
    path = cache.blobs / name
    path.write_bytes(CONTENT)
    then = time.time() - idle_seconds
    os.utime(path, (then, then))
    return path


@pytest.mark.parametrize(
    ("name", "idle_seconds", "locked", "removed"),
    [
        ("abc.0123abcd.incomplete", 60, False, True),
        ("abc.0123abcd.incomplete", 60, True, False),
        ("abc.0123abcd.incomplete", 1, False, False),
        ("abc.0123abcd.incomplete", 4000, True, True),
        # hub < 1.0 goes on from these.
        ("abc.incomplete", 4000, False, False),
    ],
)
def test_a_leftover_is_one_that_nobody_writes(
    cache: RepoCache, name: str, idle_seconds: float, locked: bool, removed: bool
) -> None:
    path = _partial(cache, name, idle_seconds)
    lock = cache.cache / ".locks" / "models--org--name" / "abc.lock"
    with lock.open("w") as held:
        if locked:
            fcntl.flock(held, fcntl.LOCK_EX)
        assert cache.remove_leftovers() == (len(CONTENT) if removed else 0)
    assert path.exists() is not removed


def test_a_leftover_is_not_counted_until_it_grows(cache: RepoCache) -> None:
    partial = _partial(cache, "abc.0123abcd.incomplete", 1)
    size = SnapshotSize(cache.blobs, [(cache.folder / "snapshots/1/a", 10_000)])
    assert size.measure() == 0
    with partial.open("ab") as growing:
        growing.write(bytes(4096))
        growing.flush()
        os.fsync(growing.fileno())
    assert size.measure() == len(CONTENT) + 4096
    partial.unlink()
    assert size.measure() == len(CONTENT) + 4096
