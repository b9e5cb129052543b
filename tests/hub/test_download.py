"""Real huggingface_hub in a real child process, against a local hub."""

from __future__ import annotations

import fnmatch
import os
import signal
import time
from pathlib import Path

import pytest

from proxy.errors import Cause
from proxy.models.events import Done, Failed, Plan, decode_event
from tests.engine.service import wait_until
from tests.fake_hub import FakeHub, Fault, Kind
from tests.hub.child import Child, download
from tests.hub.conftest import LARGE, SMALL
from tests.patience import PATIENCE, on_a_clock

pytestmark = pytest.mark.hub

FETCHED = [
    "config.json",
    "model.safetensors",
    "processor/preprocessor_config.json",
    "tokenizer.json",
]
BIG_SHARD = "GET /cdn/*/model-00002-of-00002.safetensors"
SMALL_SHARD = "GET /cdn/*/model-00001-of-00002.safetensors"


def _files(folder: str | Path) -> dict[str, bytes]:
    root = Path(folder)
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def _found(home: Path, name: str) -> list[Path]:
    """The files of a name; folders may come and go meanwhile, which `rglob` does not bear."""
    walk = os.walk(home)
    return [Path(at, each) for at, _, files in walk for each in fnmatch.filter(files, name)]


def _partials(home: Path) -> list[Path]:
    return _found(home, "*.incomplete")


def _half_a_shard(home: Path) -> list[Path]:
    return [path for path in _partials(home) if _size(path) >= 10 << 20]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # finished, or swept up, since it was listed
        return 0


def _age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_a_snapshot_holds_the_bytes_of_the_hub(hub: FakeHub, home: Path, models: Path) -> None:
    outcome = download(hub.url, home, SMALL)
    done = outcome.one(Done)
    wanted = {name: (models / SMALL / name).read_bytes() for name in FETCHED}
    assert outcome.code == 0
    assert _files(done.path) == wanted
    plan = outcome.one(Plan)
    total = sum(len(content) for content in wanted.values())
    assert (plan.files, plan.bytes_total, plan.bytes_to_fetch) == (len(wanted), total, total)
    assert plan.bytes_free > total
    assert plan.revision == done.revision == hub.commit(SMALL)
    assert outcome.events[0] == plan
    assert outcome.progress[-1] == total
    assert outcome.events[-1] == done
    assert hub.count("*README.md") == hub.count("*pytorch_model.bin") == 0


@on_a_clock("a download of 2 s is looked at every 0.5 s")
def test_progress_grows_while_bytes_arrive(hub: FakeHub, home: Path) -> None:
    hub.faults.append(Fault(Kind.SLOW, BIG_SHARD, rate=12_000_000))
    outcome = download(hub.url, home, LARGE)
    assert outcome.progress == sorted(set(outcome.progress))
    assert outcome.progress[-1] == outcome.one(Plan).bytes_total
    # The whole pieces of 10 MiB show before the file is finished.
    assert any(10 << 20 <= seen < outcome.progress[-1] for seen in outcome.progress)


def test_a_second_run_fetches_nothing(hub: FakeHub, home: Path) -> None:
    first = download(hub.url, home, SMALL)
    fetched = hub.count("GET */cdn/*") + hub.count("GET */resolve/*")
    second = download(hub.url, home, SMALL)
    assert second.one(Plan).bytes_to_fetch == 0
    assert second.progress == [second.one(Plan).bytes_total]
    assert second.one(Done) == first.one(Done)
    assert hub.count("GET */cdn/*") + hub.count("GET */resolve/*") == fetched


def test_a_revision_is_fetched_by_its_commit(hub: FakeHub, home: Path) -> None:
    outcome = download(hub.url, home, SMALL, "--revision", hub.commit(SMALL))
    assert outcome.one(Done).revision == hub.commit(SMALL)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe"])
def test_a_ref_that_a_crash_has_spoiled_is_written_anew(
    hub: FakeHub, home: Path, content: bytes
) -> None:
    done = download(hub.url, home, SMALL).one(Done)
    (ref,) = home.rglob("refs/main")
    ref.write_bytes(content)
    assert download(hub.url, home, SMALL).one(Done) == done
    assert ref.read_text() == done.revision


def test_an_update_of_the_model_is_fetched(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    hub.root = tmp_path / "models"
    config = hub.root / SMALL / "config.json"
    config.parent.mkdir(parents=True)
    config.write_text("{}")
    before = download(hub.url, home, SMALL).one(Done)
    config.write_text('{"new": true}')
    after = download(hub.url, home, SMALL).one(Done)
    assert before.revision != after.revision
    assert (Path(after.path) / "config.json").read_text() == '{"new": true}'


def test_a_cut_is_healed_with_a_range_request(hub: FakeHub, home: Path, models: Path) -> None:
    hub.faults.append(Fault(Kind.CUT, BIG_SHARD, times=1, at=15_000_000))
    outcome = download(hub.url, home, LARGE)
    assert _files(outcome.one(Done).path) == _files(models / LARGE)
    ranges = [request.range for request in hub.requests if "00002-of" in request.path]
    assert f"bytes={10 << 20}-" in ranges
    assert outcome.progress == sorted(outcome.progress)


def _kill_halfway(hub: FakeHub, home: Path, number: signal.Signals) -> int:
    """Kill a download that has one shard and a part of the other; the exit code."""
    hub.faults.append(Fault(Kind.STALL, BIG_SHARD, times=1, at=15_000_000))
    with Child(hub.url, home, LARGE) as child:
        wait_until(lambda: bool(_half_a_shard(home)), PATIENCE, "half a shard")
        small = "model-00001-of-00002.safetensors"
        wait_until(lambda: bool(_found(home, small)), PATIENCE, "the small shard")
        child.process.send_signal(number)
        return child.outcome().code


def test_a_killed_download_goes_on_where_it_was(hub: FakeHub, home: Path, models: Path) -> None:
    assert _kill_halfway(hub, home, signal.SIGKILL) == -signal.SIGKILL
    for partial in _partials(home):
        _age(partial, 60)
    again = download(hub.url, home, LARGE)
    assert _files(again.one(Done).path) == _files(models / LARGE)
    assert (
        again.one(Plan).bytes_to_fetch
        == (models / LARGE / "model-00002-of-00002.safetensors").stat().st_size
    )
    assert (hub.count(SMALL_SHARD), hub.count(BIG_SHARD)) == (1, 2)
    assert _partials(home) == []


def test_a_stopped_download_leaves_no_partial_file(hub: FakeHub, home: Path) -> None:
    assert _kill_halfway(hub, home, signal.SIGTERM) == -signal.SIGTERM
    assert _partials(home) == []


def test_a_partial_file_in_use_is_left_alone(hub: FakeHub, home: Path) -> None:
    # Again and again: hub asks anew for what has not come for 10 s.
    hub.faults.append(Fault(Kind.STALL, BIG_SHARD, at=15_000_000))
    with Child(hub.url, home, LARGE):
        wait_until(lambda: bool(_half_a_shard(home)), PATIENCE, "half a shard")
        (partial,) = _half_a_shard(home)
        _age(partial, 60)
        # Its lock is held, so this run waits for it, and gives up.
        other = download(hub.url, home, LARGE, "--stall-seconds", "2")
        assert other.one(Failed).cause is Cause.HUB_UNREACHABLE
        assert partial.exists()


def test_a_stall_ends_in_the_time_given(hub: FakeHub, home: Path) -> None:
    hub.faults.append(Fault(Kind.STALL, BIG_SHARD, at=11_000_000))
    outcome = download(hub.url, home, LARGE, "--stall-seconds", "2")
    failed = outcome.one(Failed)
    assert (outcome.code, failed.cause, failed.permanent) == (1, Cause.HUB_UNREACHABLE, False)
    assert "has sent nothing of tiny/large for 2 s" in failed.message
    assert _partials(home) == []


@on_a_clock("a silence of 1.5 s is a stall")
def test_a_wait_that_the_hub_asks_for_is_no_stall(hub: FakeHub, home: Path) -> None:
    hub.faults.append(Fault(Kind.RATE_LIMITED, "GET /cdn/*", times=1, seconds=2))
    outcome = download(hub.url, home, SMALL, "--stall-seconds", "1.5")
    assert outcome.one(Done)
    assert "Rate limited. Waiting 3.0s" in outcome.stderr


@pytest.mark.parametrize("fault", [Kind.GATED, Kind.SILENT])
def test_a_complete_cache_outlives_the_hub(hub: FakeHub, home: Path, fault: Kind) -> None:
    first = download(hub.url, home, SMALL)
    hub.faults.append(Fault(fault))
    again = download(hub.url, home, SMALL, "--metadata-seconds", "2")
    assert again.events == [first.one(Done)]
    assert again.code == 0
    assert "warning: " in again.stderr
    assert "serving the complete snapshot" in again.stderr


def test_an_unfinished_update_does_not_hide_the_snapshot_before_it(
    hub: FakeHub, home: Path, tmp_path: Path
) -> None:
    hub.root = tmp_path / "models"
    folder = hub.root / SMALL
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"old")
    before = download(hub.url, home, SMALL).one(Done)
    (folder / "model.safetensors").write_bytes(b"new weights")
    hub.faults.append(Fault(Kind.UNAVAILABLE, "GET /cdn/*"))
    assert download(hub.url, home, SMALL).one(Failed).cause is Cause.HUB_UNREACHABLE
    hub.faults.append(Fault(Kind.UNAVAILABLE))
    assert download(hub.url, home, SMALL).one(Done) == before


def test_offline_serves_the_cache_without_a_word(hub: FakeHub, home: Path) -> None:
    first = download(hub.url, home, SMALL)
    asked = len(hub.requests)
    offline = download(hub.url, home, SMALL, env={"HF_HUB_OFFLINE": "1"})
    assert offline.events == [first.one(Done)]
    assert "warning" not in offline.stderr
    assert len(hub.requests) == asked


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_without_the_model_says_what_is_missing(
    hub: FakeHub, home: Path, variable: str
) -> None:
    outcome = download(hub.url, home, SMALL, env={variable: "1"})
    failed = outcome.one(Failed)
    assert (failed.cause, failed.permanent) == (Cause.MODEL_NOT_FOUND, True)
    assert failed.message.startswith(f"{variable} is set and tiny/model (revision main)")
    assert failed.remedy.startswith(f"unset {variable} ")
    assert "HF_HOME" in failed.remedy
    assert hub.requests == []


@pytest.mark.parametrize("listing_is_cached", [True, False])
def test_offline_with_half_the_model_says_what_is_missing(
    hub: FakeHub, home: Path, listing_is_cached: bool
) -> None:
    done = download(hub.url, home, LARGE).one(Done)
    (Path(done.path) / "model-00002-of-00002.safetensors").unlink()
    if not listing_is_cached:
        for listing in home.rglob("trees/*.json"):
            listing.unlink()
    failed = download(hub.url, home, LARGE, env={"HF_HUB_OFFLINE": "1"}).one(Failed)
    assert "lacks model-00002-of-00002.safetensors" in failed.message


def test_lines_of_others_are_no_events() -> None:
    assert decode_event(b'{"event":"progress","bytes":7}\n') is not None
    for line in (b"", b"Downloading...", b"{}", b'{"event":"else"}', b'{"event":"progress"}'):
        assert decode_event(line) is None
