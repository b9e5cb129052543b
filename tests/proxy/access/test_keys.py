"""API keys: who is known, by which header, and how the file is followed."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from proxy.access import keys as keys_module
from proxy.access.keys import Keys, warnings_about_keys
from proxy.errors import SettingsError, Unauthorized
from proxy.settings import Settings
from proxy.settings.keys import new_key_line
from tests.patience import PATIENCE

ALICE, BOB = b"sk-alice-0123456789", b"sk-bob-0123456789"
BOTH = {"API_KEYS": f"alice:{ALICE.decode()},bob:{BOB.decode()}"}


def known(**environ: str) -> Keys:
    return Keys(Settings.load(environ or BOTH))


def owner(*headers: tuple[bytes, bytes]) -> str | None:
    with suppress(Unauthorized):
        return known().owner(dict([*reversed(headers), (b"host", b"here")]))
    return None


# Whose key ------------------------------------------------------------------------------------


PRESENTED: list[tuple[list[tuple[bytes, bytes]], str | None]] = [
    ([(b"authorization", b"Bearer " + ALICE)], "alice"),
    ([(b"authorization", b"bearer  " + ALICE + b" ")], "alice"),
    ([(b"x-api-key", BOB)], "bob"),
    # A load balancer's own key, beside ours.
    ([(b"authorization", b"Bearer rpa_RUNPOD"), (b"x-api-key", ALICE)], "alice"),
    ([(b"authorization", b"Bearer " + ALICE), (b"x-api-key", b"other")], "alice"),
    ([(b"authorization", b"Bearer " + ALICE), (b"x-api-key", BOB)], "bob"),
    ([], None),
    ([(b"authorization", b"Bearer ")], None),
    ([(b"authorization", b"Bearer")], None),
    ([(b"authorization", ALICE)], None),
    ([(b"authorization", b"Basic " + ALICE)], None),
    ([(b"authorization", b"Bearer " + ALICE[:-1])], None),
    ([(b"authorization", b"Bearer " + ALICE + b"0")], None),
    ([(b"authorization", b"Bearer " + ALICE.upper())], None),
    ([(b"authorization", b"Bearer alice:" + ALICE)], None),
    ([(b"authorization", b"Bearer alice")], None),
    ([(b"authorization", b"Bearer " + ALICE + b"\0")], None),
    ([(b"authorization", b"Bearer " + ALICE + b"," + BOB)], None),
    ([(b"x-api-key", b"")], None),
    ([(b"x-api-key", b"x" * 100_000)], None),
    ([(b"x-api-key", b"\xff" * 40)], None),
    ([(b"api-key", ALICE), (b"cookie", ALICE), (b"x-api-keys", ALICE)], None),
    ([(b"proxy-authorization", b"Bearer " + ALICE)], None),
    # What is good in one header is not yet good in the other.
    ([(b"x-api-key", b"Bearer " + ALICE)], None),
    ([(b"authorization", b"Bearer " + ALICE), (b"x-api-key", b"Bearer " + BOB)], "alice"),
    ([(b"authorization", b"Bearer " + ALICE), (b"authorization", b"Basic x")], "alice"),
]


@pytest.mark.parametrize(("headers", "expected"), PRESENTED)
def test_a_key_is_known_by_its_headers_and_by_nothing_else(
    headers: list[tuple[bytes, bytes]], expected: str | None
) -> None:
    assert owner(*headers) == expected


def test_what_has_passed_once_passes_as_it_did_and_nothing_else_does() -> None:
    keys = known()
    for _ in range(3):
        for headers, expected in PRESENTED:
            found = None
            with suppress(Unauthorized):
                found = keys.owner(dict(reversed(headers)))
            assert found == expected, headers


def test_a_key_in_many_spellings_takes_no_memory_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keys_module, "_MAX_PASSED", 10)
    keys = known()
    for blanks in range(100):
        assert keys.owner({b"x-api-key": ALICE + b" " * blanks}) == "alice"
    assert len(keys._passed_keys) <= 10
    # A head may have 256 KiB.
    long = b" " * 200_000
    for headers in ([(b"x-api-key", long + ALICE)], [(b"authorization", b"Bearer" + long + ALICE)]):
        assert keys.owner(dict(reversed(headers))) == "alice"
    assert not any(len(value) > 2000 for value in (*keys._passed_keys, *keys._passed_bearers))


def test_a_missing_key_and_a_wrong_one_are_told_apart_and_neither_is_repeated() -> None:
    with pytest.raises(Unauthorized, match=r"needs an API key.*x-api-key"):
        known().owner({})
    with pytest.raises(Unauthorized) as refused:
        known().owner({b"x-api-key": b"sk-wrong"})
    assert "sk-wrong" not in str(refused.value)


def test_a_key_that_has_not_passed_yet_is_known_by_its_digest_alone() -> None:
    held = repr(vars(known())["_by_digest"])
    assert ALICE.decode() not in held
    assert vars(known())["_by_digest"].keys() != vars(known())["_by_digest"].keys(), "a secret each"


def test_a_new_key_is_random_long_and_can_be_pasted() -> None:
    lines = {new_key_line("alice") for _ in range(100)} | {new_key_line()}
    assert len(lines) == 101
    keys = Settings.load({"API_KEYS": new_key_line("alice") + "," + new_key_line()}).api_keys
    assert keys[0].label == "alice"
    assert len(keys[0].key) >= 40
    with pytest.raises(SettingsError, match="'a b' cannot be a label"):
        new_key_line("a b")


# What the operator is told --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "There is no API key, and HOST=0.0.0.0 .* port 8000"),
        ({"HOST": "::"}, "HOST=::"),
        ({"HOST": "sidecar.local"}, "HOST=sidecar.local"),
        ({"API_KEYS": "bob:1234"}, "so short that they can be guessed: bob"),
        ({"HOST": "127.0.0.1"}, None),
        ({"HOST": "::1"}, None),
        ({"HOST": "localhost"}, None),
        (BOTH, None),
    ],
)
def test_a_start_warns_of_an_open_address_and_of_keys_that_can_be_guessed(
    environ: dict[str, str], says: str | None
) -> None:
    settings = Settings.load(environ)
    told = warnings_about_keys(settings, Keys(settings).all)
    assert len(told) == (says is not None)
    if says is not None:
        assert re.search(says, told[0])
        assert "1234" not in told[0]


# The file -------------------------------------------------------------------------------------

FILE = """\
# who may ask
alice:sk-1   # since May

bob:sk-2#3
sk-4
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_file_has_a_key_on_each_line_and_comments(tmp_path: Path, encoding: str) -> None:
    """With a mark at its beginning too, which Windows writes."""
    path = tmp_path / "keys"
    path.write_text(FILE, encoding)
    found = known(API_KEYS_FILE=str(path), API_KEYS="carol:sk-5")
    assert found.labels == ("carol", "alice", "bob", "line-5")
    assert found.owner({b"x-api-key": b"sk-2#3"}) == "bob"
    assert found.owner({b"x-api-key": b"sk-4"}) == "line-5"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file|it is no file"),
        (b"a:x\nb:hush hush\n", "line 2, after the key: allowed are rpm"),
        (b"a:x\nb:hush,hush\n", "line 2: a key has"),
        (b"all:hush\n", "line 1: a label has"),
        (b"a:x\na:hush\n", "two keys are called a"),
        (b"a:sk-carol", "a is the same key as carol"),
        (b"carol:hush", "two keys are called carol"),
        (b"\xff\xfe", "UTF-8"),
    ],
)
def test_a_file_that_is_wrong_stops_the_start_and_no_key_is_shown(
    tmp_path: Path, content: bytes | None, says: str
) -> None:
    path = tmp_path / "keys"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=says) as refused:
        known(API_KEYS_FILE=str(path), API_KEYS="carol:sk-carol")
    assert str(refused.value).startswith(f"API_KEYS_FILE='{path}': ")
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("kind", ["folder", "pipe", "large"])
def test_what_is_no_file_of_keys_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "keys"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        with path.open("wb") as file:
            file.truncate(17 * 1024 * 1024)
    with pytest.raises(SettingsError, match="it is no file"):
        known(API_KEYS_FILE=str(path))


def test_an_empty_file_lets_nobody_in_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text("# none yet\n")
    settings = Settings.load({"API_KEYS_FILE": str(path)})
    assert settings.needs_key
    (told,) = warnings_about_keys(settings, Keys(settings).all)
    assert "no key yet" in told


@asynccontextmanager
async def followed(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Keys]:
    monkeypatch.setattr(keys_module, "REREAD_SECONDS", 0.01)
    found = known(API_KEYS_FILE=str(path))
    task = asyncio.create_task(found.reread())
    yield found
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def replace(path: Path, text: str) -> None:
    """As one writes such a file: beside it, then renamed."""
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").replace(path)


async def test_a_changed_file_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys"
    path.write_text("alice:sk-1")
    changes: list[int] = []
    async with followed(path, monkeypatch) as found:
        found.when_changed = lambda: changes.append(len(found.all))
        assert found.owner({b"x-api-key": b"sk-1"}) == "alice", "it has passed before"
        replace(path, "bob:sk-2\ncarol:sk-3")
        await until(lambda: found.labels == ("bob", "carol"))
        assert found.owner({b"x-api-key": b"sk-2"}) == "bob"
        with pytest.raises(Unauthorized):
            found.owner({b"x-api-key": b"sk-1"})
        replace(path, "")
        await until(lambda: not found.labels)
    assert changes == [2, 0]


async def test_a_file_that_becomes_wrong_leaves_the_keys_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "proxy.keys")
    path = tmp_path / "keys"
    path.write_text("alice:sk-1")
    async with followed(path, monkeypatch) as found:
        replace(path, "a b:sk-hush")
        await until(lambda: "line 1" in caplog.text)
        path.unlink()
        await until(lambda: caplog.text.count("stay as they were") == 2)
        await asyncio.sleep(0.1)
        assert found.labels == ("alice",)
        assert caplog.text.count("stay as they were") == 2
        path.write_text("bob:sk-2")
        await until(lambda: found.labels == ("bob",))
    assert "hush" not in caplog.text


async def test_without_a_file_there_is_nothing_to_follow() -> None:
    await asyncio.wait_for(known().reread(), PATIENCE)
