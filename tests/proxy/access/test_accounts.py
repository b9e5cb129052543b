"""What keys may use: by the minute and by the day, each and together, also after a restart."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proxy.access import accounts as accounts_module
from proxy.access import ledger as ledger_module
from proxy.access.account import duration
from proxy.access.accounts import Accounts
from proxy.access.ledger import Ledger
from proxy.errors import QuotaExceeded, RateLimited
from proxy.settings.allowance import NOTHING, Allowance, KeyLimits, parse_key_limits
from proxy.settings.keys import ApiKey, parse_key_lines
from tests.patience import PATIENCE

DAY = 86_400.0
NOON = 20_000 * DAY + DAY / 2


class Time:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.now, self.wall = 1000.0, NOON

    def passes(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    moved = Time()
    monkeypatch.setattr(accounts_module, "monotonic", lambda: moved.now)
    monkeypatch.setattr(accounts_module, "time", lambda: moved.wall)
    return moved


def accounts(text: str = "", **keys: Allowance) -> Accounts:
    made = Accounts(parse_key_limits(text) if text else KeyLimits())
    made.set_keys([ApiKey(label, f"sk-{label}", allowance) for label, allowance in keys.items()])
    return made


def shown(found: bytes | tuple[tuple[bytes, bytes], ...]) -> dict[str, str]:
    """Lines of a head, or headers."""
    if isinstance(found, bytes):
        found = tuple((name, value) for name, _, value in map(parted, found.splitlines()))
    return {name.decode().removeprefix("x-ratelimit-"): value.decode() for name, value in found}


def parted(line: bytes) -> tuple[bytes, bytes, bytes]:
    return line.partition(b": ")


# By the minute --------------------------------------------------------------------------------


def test_requests_of_a_minute_run_out_and_come_back(time: Time) -> None:
    them = accounts("rpm=2", alice=NOTHING)
    assert shown(them.admit("alice")) == {
        "limit-requests": "2",
        "remaining-requests": "1",
        "reset-requests": "30.0s",
    }
    them.admit("alice")
    with pytest.raises(RateLimited, match=r"alice has used all of 2 requests a minute") as refused:
        them.admit("alice")
    assert (refused.value.type, refused.value.retry_after_seconds) == ("requests", 30)
    assert shown(refused.value.headers)["remaining-requests"] == "0"
    time.passes(30)
    them.admit("alice")
    with pytest.raises(RateLimited):
        them.admit("alice")


def test_tokens_are_charged_afterwards_and_debts_are_paid_back(time: Time) -> None:
    them = accounts("tpm=60", alice=NOTHING)
    them.admit("alice")
    them.charge("alice", 100)
    with pytest.raises(RateLimited, match="60 tokens a minute") as refused:
        them.admit("alice")
    assert (refused.value.type, refused.value.retry_after_seconds) == ("tokens", 41)
    assert shown(refused.value.headers) == {
        "limit-tokens": "60",
        "remaining-tokens": "0",
        "reset-tokens": "1m40s",
    }
    time.passes(41)
    assert shown(them.admit("alice"))["remaining-tokens"] == "1"


@pytest.mark.parametrize("limits", ["rpm=1", "tpm=60", "all: tpm=60", "tpm=60,rpm=1,tpd=5000"])
def test_no_wait_of_a_minute_s_limit_is_told_that_clients_do_not_heed(
    time: Time, limits: str
) -> None:
    them = accounts(limits, alice=NOTHING)
    them.admit("alice")
    them.charge("alice", 1000)
    with pytest.raises(RateLimited) as refused:
        them.admit("alice")
    assert refused.value.retry_after_seconds == 59


def test_a_refused_request_costs_nothing(time: Time) -> None:
    them = accounts("rpm=1; all: rpm=100", alice=NOTHING, bob=NOTHING)
    them.admit("alice")
    for _ in range(50):
        with pytest.raises(RateLimited):
            them.admit("alice")
    time.passes(60)
    them.admit("alice")
    them.admit("bob")


def test_one_key_does_not_use_what_is_anothers_but_all_share_one(time: Time) -> None:
    them = accounts("rpm=2; all: rpm=3", alice=NOTHING, bob=NOTHING)
    for label in ("alice", "alice", "bob"):
        them.admit(label)
    with pytest.raises(RateLimited, match="alice has used all of 2"):
        them.admit("alice")
    with pytest.raises(RateLimited, match="All keys together have used all of 3"):
        them.admit("bob")


def test_loads_of_an_hour_run_out_and_come_back(time: Time) -> None:
    them = accounts("loads_per_hour=2; all: loads_per_hour=3", alice=NOTHING, bob=NOTHING)
    them.admit_load("alice")
    them.admit_load("alice")
    with pytest.raises(RateLimited, match="alice has used all of 2 loads of models an hour") as one:
        them.admit_load("alice")
    assert one.value.retry_after_seconds == 59, "many clients heed no more"
    assert "try this one again in 30m0s" in str(one.value)
    assert them.admit("alice") == b"", "a loaded model still answers"
    them.admit_load("bob")
    with pytest.raises(RateLimited, match="All keys together have used all of 3"):
        them.admit_load("bob")
    time.passes(1799)
    with pytest.raises(RateLimited) as soon:
        them.admit_load("alice")
    assert soon.value.retry_after_seconds == 1
    time.passes(1)
    them.admit_load("alice")


def test_a_load_that_is_refused_costs_nobody_anything(time: Time) -> None:
    them = accounts("all: loads_per_hour=2; alice: loads_per_hour=1", alice=NOTHING, bob=NOTHING)
    them.admit_load("alice")
    for _ in range(9):
        with pytest.raises(RateLimited, match="alice"):
            them.admit_load("alice")
    them.admit_load("bob")
    accounts(alice=NOTHING).admit_load("alice")  # without a limit nothing is counted


@pytest.mark.parametrize(
    ("limits", "whose"),
    [("rpm=2,tpm=60", "alice has"), ("rpm=2; all: tpm=60", "All keys together")],
)
def test_who_comes_again_when_told_is_let_in(time: Time, limits: str, whose: str) -> None:
    """Of several limits that are used up, the one that takes longest says when."""
    them = accounts(limits, alice=NOTHING)
    for _ in range(2):
        them.admit("alice")
    them.charge("alice", 100)
    with pytest.raises(RateLimited, match=f"{whose}.* 60 tokens a minute") as refused:
        them.admit("alice")
    assert (refused.value.type, refused.value.retry_after_seconds) == ("tokens", 41)
    time.passes(41)
    them.admit("alice")


@pytest.mark.parametrize("uptime", [0.1, 4_000_000.7])
def test_what_is_left_is_not_one_less_than_that(time: Time, uptime: float) -> None:
    """The clock has some bits after the point, and none of them is a request."""
    time.now = uptime
    them = accounts("rpm=100", alice=NOTHING)
    for left in range(99, 59, -1):
        found = shown(them.admit("alice"))
        assert found["remaining-requests"] == str(left)
    assert found["reset-requests"] == "24.0s"
    time.now += 23.4
    assert shown(them.admit("alice"))["reset-requests"] == "1.2s"
    time.now += 0.6
    assert shown(them.admit("alice"))["reset-requests"] == "1.2s"


def test_all_may_be_limited_without_keys(time: Time) -> None:
    them = accounts("all: rpm=1")
    assert them.limited
    assert shown(them.admit(None))["limit-requests"] == "1"
    with pytest.raises(RateLimited):
        them.admit(None)


# By the day -----------------------------------------------------------------------------------


def test_tokens_of_a_day_end_with_the_day(time: Time) -> None:
    them = accounts("tpd=100", alice=NOTHING)
    assert shown(them.admit("alice")) == {
        "limit-tokens": "100",
        "remaining-tokens": "100",
        "reset-tokens": "0ms",
    }
    them.charge("alice", 101)
    with pytest.raises(QuotaExceeded, match=r"101 of 100 tokens a day.*in 12h0m0s") as refused:
        them.admit("alice")
    assert (b"x-should-retry", b"false") in refused.value.headers
    assert (refused.value.type, refused.value.code) == ("insufficient_quota",) * 2
    assert shown(refused.value.headers[1:])["reset-tokens"] == "12h0m0s"
    time.passes(DAY / 2 - 1)
    with pytest.raises(QuotaExceeded):
        them.admit("alice")
    time.passes(1)
    them.admit("alice")


@pytest.mark.parametrize("ahead", [3600 * 13, 30 * DAY])
def test_a_clock_that_was_ahead_blocks_nobody_after_the_day_has_ended(
    time: Time, ahead: float
) -> None:
    time.wall += ahead
    them = accounts("tpd=100", alice=NOTHING)
    them.charge("alice", 60)
    time.wall -= ahead
    assert shown(them.admit("alice"))["remaining-tokens"] == "40"
    them.charge("alice", 60)
    with pytest.raises(QuotaExceeded, match=r"120 of 100 tokens a day.*in 12h0m0s"):
        them.admit("alice")
    time.passes(DAY / 2)
    assert shown(them.admit("alice"))["remaining-tokens"] == "100"


# Whose limits hold ----------------------------------------------------------------------------


def test_the_files_columns_win_over_a_label_and_that_over_all_others(time: Time) -> None:
    them = Accounts(parse_key_limits("rpm=1,tpm=10,tpd=7; bob: rpm=2"))
    them.set_keys(parse_key_lines("alice:k1\nbob : k2\ncarol:k3 rpm=3   tpd=9 # since May"))
    limits = {label: shown(them.admit(label)) for label in ("alice", "bob", "carol")}
    assert [limits[each]["limit-requests"] for each in limits] == ["1", "2", "3"]
    assert {limits[each]["limit-tokens"] for each in limits} == {"10"}


def test_who_has_no_limit_is_not_counted(time: Time) -> None:
    them = accounts("bob: rpm=1", alice=NOTHING, bob=NOTHING)
    assert them.admit("alice") == b""
    them.charge("alice", 5)
    assert them.take_charges() == []
    assert not accounts(alice=NOTHING).limited


def test_a_change_of_the_file_changes_limits_and_forgives_nothing(time: Time) -> None:
    them = accounts(alice=Allowance(rpm=10), bob=Allowance(rpm=1))
    for _ in range(10):
        them.admit("alice")
    them.set_keys([ApiKey("alice", "other", Allowance(rpm=12))])
    assert shown(them.admit("alice"))["remaining-requests"] == "1"
    them.set_keys([ApiKey("alice", "other", NOTHING)])
    assert them.admit("alice") == b""
    them.admit("bob")
    them.set_keys([ApiKey("bob", "again", Allowance(rpm=1))])
    with pytest.raises(RateLimited):
        them.admit("bob")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.0161, "17ms"), (1, "1.0s"), (4.21, "4.2s"), (59.99, "60.0s"), (360, "6m0s")],
)
def test_durations_are_written_as_openai_does(seconds: float, text: str) -> None:
    assert duration(seconds).decode() == text


# What survives a restart ----------------------------------------------------------------------

LIMITS = "rpm=60,tpm=600,tpd=1000; all: tpm=6000"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "used.sqlite3"


async def loaded(path: Path, limits: str = LIMITS) -> Accounts:
    """A new process."""
    them = accounts(limits, alice=NOTHING)
    await Ledger(path, them).load()
    return them


async def restarted(path: Path, them: Accounts) -> Accounts:
    """A new process, after the old one has written down what it had."""
    await Ledger(path, them).write()
    return await loaded(path)


async def test_what_was_used_survives_a_restart(time: Time, tmp_path: Path) -> None:
    them = accounts(LIMITS, alice=NOTHING)
    for _ in range(31):
        them.admit("alice")
    them.charge("alice", 500)
    again = await restarted(tmp_path / "deep" / "used.sqlite3", them)
    found = shown(again.admit("alice"))
    assert (found["remaining-requests"], found["remaining-tokens"]) == ("28", "100")
    again.charge("alice", 500)
    with pytest.raises(QuotaExceeded, match="1000 of 1000"):
        again.admit("alice")


async def test_the_time_of_a_restart_counts(time: Time, path: Path) -> None:
    them = accounts(LIMITS, alice=NOTHING)
    them.charge("alice", 600)
    await Ledger(path, them).write()
    time.passes(10)
    again = await restarted(path, accounts(LIMITS))
    assert shown(again.admit("alice"))["remaining-tokens"] == "100"
    time.passes(DAY)
    tomorrow = await restarted(path, accounts(LIMITS))
    assert shown(tomorrow.admit("alice"))["remaining-tokens"] == "600"


async def test_only_what_has_changed_is_written(time: Time, tmp_path: Path) -> None:
    path = tmp_path / "used.sqlite3"
    them = accounts("rpm=5", alice=NOTHING, bob=NOTHING)
    ledger = Ledger(path, them)
    await ledger.write()
    assert not path.exists()
    them.admit("bob")
    await ledger.write()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("select label from used").fetchall() == [("bob",)]


async def test_what_could_not_be_written_is_written_later(time: Time, tmp_path: Path) -> None:
    path = tmp_path / "used.sqlite3"
    path.mkdir()
    them = accounts(LIMITS, alice=NOTHING)
    ledger = Ledger(path, them)
    them.charge("alice", 500)
    await ledger.write()
    path.rmdir()
    await ledger.write()
    again = await loaded(path)
    assert shown(again.admit("alice"))["remaining-tokens"] == "100"


async def test_an_end_before_the_file_was_read_adds_to_what_is_there(
    time: Time, path: Path
) -> None:
    for used in (200, 300):
        them = accounts(LIMITS, alice=NOTHING)
        them.charge("alice", used)
        await Ledger(path, them).close()
    again = await loaded(path)
    assert shown(again.admit("alice"))["remaining-tokens"] == "100"


async def test_a_volume_that_has_gone_holds_up_neither_the_start_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "used.sqlite3"
    back = threading.Event()

    def wait_for_it(_: Ledger) -> None:
        back.wait(PATIENCE)
        raise OSError("Stale file handle")

    monkeypatch.setattr(Ledger, "_open", wait_for_it)
    monkeypatch.setattr(ledger_module, "_LAST_WRITE_SECONDS", 0.05)
    path.touch()
    them = accounts("rpm=5", alice=NOTHING)
    ledger = Ledger(path, them)
    loading = asyncio.create_task(ledger.load())
    await asyncio.sleep(0)
    them.admit("alice")
    await ledger.close()
    assert "does not answer" in caplog.text
    assert not loading.done()
    loading.cancel()
    back.set()


@pytest.mark.parametrize("fails", [True, False])
async def test_a_write_under_way_at_the_end_loses_nothing_and_counts_once(
    time: Time, path: Path, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    begun, goes_on, opens = threading.Event(), threading.Event(), Ledger._open

    def open_slowly(ledger: Ledger) -> sqlite3.Connection:
        if not begun.is_set():
            begun.set()
            goes_on.wait(PATIENCE)
            if fails:
                raise sqlite3.OperationalError("database is locked")
        return opens(ledger)

    them = accounts("tpd=1000", alice=NOTHING)
    ledger = Ledger(path, them)
    them.charge("alice", 100)
    await ledger.write()
    monkeypatch.setattr(Ledger, "_open", open_slowly)
    monkeypatch.setattr(ledger_module, "WRITE_SECONDS", 0)
    them.charge("alice", 100)
    keeping = asyncio.create_task(ledger.keep())
    await asyncio.to_thread(begun.wait, PATIENCE)
    keeping.cancel()
    them.charge("alice", 100)
    last_write = asyncio.create_task(ledger.close())
    await asyncio.sleep(0.05)
    goes_on.set()
    await last_write
    again = await loaded(path, "tpd=1000")
    assert shown(again.admit("alice"))["remaining-tokens"] == "700"


@pytest.mark.parametrize("spoiled", ["folder", "garbage", "other table"])
async def test_a_file_that_is_spoiled_is_told_once_and_stops_nobody(
    time: Time, tmp_path: Path, spoiled: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "used.sqlite3"
    if spoiled == "folder":
        path.mkdir()
    elif spoiled == "garbage":
        path.write_bytes(b"no database" * 100)
    else:
        with closing(sqlite3.connect(path)) as database:
            database.execute("create table used (label text)")
    them = accounts(LIMITS, alice=NOTHING)
    ledger = Ledger(path, them)
    await ledger.load()
    for _ in range(3):
        them.admit("alice")
        await ledger.write()
    assert caplog.text.count("is not kept") == 1


# Several sidecars with one file ---------------------------------------------------------------


async def test_what_several_sidecars_use_adds_up(time: Time, path: Path) -> None:
    both = [accounts(LIMITS, alice=NOTHING, bob=NOTHING) for _ in range(2)]
    ledgers = [Ledger(path, them) for them in both]
    for ledger in ledgers:
        await ledger.load()
    for them, tokens in zip(both, (200, 300), strict=True):
        for _ in range(10):
            them.admit("alice")
        them.charge("alice", tokens)
    both[0].charge("bob", 7)
    for ledger in (*ledgers, *ledgers):
        await ledger.write()
    again = accounts(LIMITS, alice=NOTHING, bob=NOTHING)
    await Ledger(path, again).load()
    for them in (*both, again):
        found = shown(them.admit("alice"))
        assert (found["remaining-requests"], found["remaining-tokens"]) == ("39", "100")
        assert shown(them.admit("bob"))["remaining-tokens"] == "593"
    both[1].charge("alice", 500)
    for ledger in (ledgers[1], ledgers[0]):
        await ledger.write()
    with pytest.raises(QuotaExceeded, match="1000 of 1000"):
        both[0].admit("alice")


async def test_a_restart_beside_another_sidecar_gives_nothing_back(time: Time, path: Path) -> None:
    """Each wrote its own sum over the other's."""
    first, second = (accounts("tpd=1000", alice=NOTHING) for _ in range(2))
    ledgers = [Ledger(path, first), Ledger(path, second)]
    for ledger in ledgers:
        await ledger.load()
    first.charge("alice", 600)
    await ledgers[0].write()
    second.charge("alice", 1)
    await ledgers[1].close()
    again = await loaded(path, "tpd=1000")
    assert shown(again.admit("alice"))["remaining-tokens"] == "399"


async def test_what_is_written_late_of_the_day_before_takes_nothing_from_this_one(
    time: Time, tmp_path: Path
) -> None:
    time.wall = 20_000 * DAY - 1
    path = tmp_path / "used.sqlite3"
    late, early = (accounts("tpd=1000", alice=NOTHING) for _ in range(2))
    ledgers = [Ledger(path, late), Ledger(path, early)]
    late.charge("alice", 600)
    time.passes(2)
    early.charge("alice", 100)
    await ledgers[1].write()
    await ledgers[0].write()
    late.charge("alice", 50)
    for ledger in (*ledgers, *ledgers):
        await ledger.write()
    for them in (late, early):
        assert shown(them.admit("alice"))["remaining-tokens"] == "850"


async def test_a_minutes_tokens_of_before_midnight_are_not_taken_for_later_ones(
    time: Time, tmp_path: Path
) -> None:
    time.wall = 20_000 * DAY - 1
    path = tmp_path / "used.sqlite3"
    them = accounts("tpm=600", alice=NOTHING)
    ledger = Ledger(path, them)
    them.charge("alice", 60)
    await ledger.write()
    them.charge("alice", 60)
    time.passes(30)
    them.charge("alice", 60)
    await ledger.write()
    again = accounts("tpm=600", alice=NOTHING)
    await Ledger(path, again).load()
    assert [shown(each.admit("alice"))["remaining-tokens"] for each in (them, again)] == ["540"] * 2


@pytest.mark.parametrize("seconds", [0.3, 59])
async def test_writing_changes_nothing_for_who_writes_alone(
    time: Time, tmp_path: Path, seconds: float
) -> None:
    written, kept = (accounts("rpm=100,tpm=6000", alice=NOTHING) for _ in range(2))
    ledger = Ledger(tmp_path / "used.sqlite3", written)
    for number in range(20):
        for them in (written, kept):
            them.admit("alice")
            them.charge("alice", 17 * number)
        time.passes(seconds * (number % 3))
        await ledger.write()
        left = [shown(them.admit("alice")) for them in (written, kept)]
        for unit in ("requests", "tokens"):
            assert left[0][f"remaining-{unit}"] == left[1][f"remaining-{unit}"]


async def test_what_is_used_while_the_file_is_written_counts_once(
    time: Time, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    them = accounts(LIMITS, alice=NOTHING)
    ledger = Ledger(path, them)
    writes = Ledger._write

    def write_slowly(*arguments: Any) -> Any:
        asyncio.run_coroutine_threadsafe(charge(), loop).result(PATIENCE)
        return writes(*arguments)

    async def charge() -> None:
        them.charge("alice", 10)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(Ledger, "_write", write_slowly)
    for _ in range(3):
        them.charge("alice", 100)
        await ledger.write()
    monkeypatch.undo()
    monkeypatch.setattr(accounts_module, "monotonic", lambda: time.now)
    monkeypatch.setattr(accounts_module, "time", lambda: time.wall)
    await ledger.write()
    again = await loaded(path)
    assert [shown(each.admit("alice"))["remaining-tokens"] for each in (them, again)] == ["270"] * 2


async def test_a_file_that_another_holds_is_written_later(
    time: Time, path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ledger_module, "_BUSY_SECONDS", 0.01)
    them = accounts(LIMITS, alice=NOTHING)
    ledger = Ledger(path, them)
    them.charge("alice", 100)
    await ledger.write()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("begin exclusive")
        for _ in range(3):
            them.charge("alice", 100)
            await ledger.write()
        assert caplog.text.count("database is locked") == 1
    await ledger.write()
    again = await loaded(path)
    assert [shown(each.admit("alice"))["remaining-tokens"] for each in (them, again)] == ["200"] * 2


async def test_a_day_that_was_written_by_a_clock_ahead_ends_with_this_day(
    time: Time, path: Path
) -> None:
    time.wall += 30 * DAY
    ahead = accounts("tpd=100,tpm=60", alice=NOTHING)
    ahead.charge("alice", 100)
    await Ledger(path, ahead).write()
    time.wall -= 30 * DAY
    again = await loaded(path, "tpd=100,tpm=60")
    with pytest.raises(QuotaExceeded, match=r"in 12h0m0s"):
        again.admit("alice")
    time.passes(DAY / 2)
    again.admit("alice")
    tomorrow = await loaded(path, "tpd=100,tpm=60")
    assert shown(tomorrow.admit("alice"))["remaining-tokens"] == "60"


async def test_the_file_needs_no_shared_memory(time: Time, tmp_path: Path, path: Path) -> None:
    """A write-ahead log would, which network volumes do not have."""
    them = accounts(LIMITS, alice=NOTHING)
    them.charge("alice", 1)
    await Ledger(path, them).write()
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("pragma journal_mode").fetchone() == ("delete",)
    assert os.listdir(tmp_path) == ["used.sqlite3"]  # noqa: PTH208 - of a test's own folder


async def test_sidecars_that_write_at_the_same_time_lose_nothing(
    time: Time, path: Path, caplog: pytest.LogCaptureFixture
) -> None:

    async def work() -> None:
        them = accounts("tpd=100000", alice=NOTHING)
        ledger = Ledger(path, them)
        await ledger.load()
        for _ in range(10):
            them.charge("alice", 7)
            await ledger.write()

    await asyncio.gather(*(work() for _ in range(5)))
    again = await loaded(path, "tpd=100000")
    assert shown(again.admit("alice"))["remaining-tokens"] == str(100_000 - 5 * 10 * 7)
    assert caplog.text == ""
