"""Which protocols of others are let in, and what is said to those that are not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.errors import SettingsError
from proxy.protocols.named import OWN, named_protocols
from proxy.settings import Settings
from tests.proxy.house import house

GOOD = """
from proxy.protocols.protocol import Protocol


class Good(Protocol):
    paths = ("/good", "/good/also")

    def request_in(self, path, body): ...

    def events_out(self, ask, events): ...


class Again(Good): ...


class Nowhere(Good):
    paths = ()


class Word(Good):
    paths = "/word"


class Unmade(Good):
    def __init__(self):
        raise RuntimeError("no disk")


class Leaves(Good):
    def __init__(self):
        raise SystemExit(0)


class Async(Good):
    async def request_in(self, path, body): ...


class Typeless(Good):
    stream_type = None


class Splits(Good):
    answer_type = "text/plain\\r\\nx: y"


class Half(Protocol):
    paths = ("/half",)


def paths(*given):
    return type("Made", (Good,), {"paths": given})


Chat = paths("/v1/chat/completions")
Alias = paths("/completions")
Native = paths("/generate")
Load = paths("/load")
Health = paths("/health/mine")
Ready = paths("/are-you-ready")
Relative = paths("good")
Query = paths("/good?x")
Climbs = paths("/a/../b")
NoClass = 3
"""
_MORE = {"PROTOCOL_MODULES": "theirs, broken_ones, leaves", "EXTRA_ROUTES": "/load"}


@pytest.fixture(autouse=True)
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Modules of somebody else's."""
    package = tmp_path / "theirs"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "words.py").write_text(GOOD)
    (tmp_path / "theirs_not.py").write_text(GOOD)
    (tmp_path / "broken_ones.py").write_text("1 / 0\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit('bye\\nnow')\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("theirs", "theirs.words", "theirs_not", "broken_ones", "leaves"):
        sys.modules.pop(name, None)


def load(*names: str, **environ: str) -> list[str]:
    settings = Settings.load({"PROTOCOLS": ",".join(names), **_MORE, **environ})
    return [path for protocol in named_protocols(settings) for path in protocol.paths]


def test_a_class_of_an_allowed_module_is_let_in() -> None:
    assert load("theirs.words:Good") == ["/good", "/good/also"]
    assert load("theirs.words:Good", PROTOCOL_MODULES="theirs.words") == ["/good", "/good/also"]
    assert load() == []


REFUSED = {
    "theirs_not:Good": "the module theirs_not is not in PROTOCOL_MODULES, which has theirs, ",
    "os:path": "the module os is not in PROTOCOL_MODULES",
    "theirs.nothing:Good": "theirs.nothing cannot be imported (ModuleNotFoundError: ",
    "broken_ones:Good": "broken_ones cannot be imported (ZeroDivisionError: division by zero)",
    "theirs.words:Nothing": "Nothing in theirs.words is no subclass of proxy.protocols.protocol",
    "theirs.words:NoClass": "NoClass in theirs.words is no subclass of",
    "theirs.words:Half": "it cannot be made (TypeError: ",
    "theirs.words:Unmade": "it cannot be made (RuntimeError: no disk)",
    "theirs.words:Leaves": "it cannot be made (SystemExit: 0)",
    "leaves:Good": "leaves cannot be imported (SystemExit: bye now)",
    "theirs.words:Async": "request_in is async; allowed is a plain function",
    "theirs.words:Typeless": "answer_type and stream_type must be texts",
    "theirs.words:Splits": "answer_type and stream_type must be texts",
    "theirs.words:Nowhere": "it has no paths",
    "theirs.words:Word": "it has no paths; allowed is a tuple of them",
    "theirs.words:Chat": "/v1/chat/completions is relayed to the engine already",
    "theirs.words:Alias": "/completions is relayed to the engine already",
    "theirs.words:Native": "/generate is relayed to the engine already",
    "theirs.words:Load": "/load is relayed to the engine already",
    "theirs.words:Health": "/health/mine is the sidecar's own",
    "theirs.words:Ready": "/are-you-ready is taken by the health check",
    "theirs.words:Relative": "the path 'good' is none; allowed are",
    "theirs.words:Query": "the path '/good?x' is none",
    "theirs.words:Climbs": "the path '/a/../b' is none",
}


@pytest.mark.parametrize("name", REFUSED)
def test_anything_else_stops_the_start(name: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load(name, HEALTH_CHECK_PATH="/are-you-ready")
    assert str(refused.value).startswith(f"PROTOCOLS={name}: {REFUSED[name]}")
    assert "\n" not in str(refused.value)


def test_a_module_that_is_not_allowed_is_not_even_imported() -> None:
    with pytest.raises(SettingsError):
        load("theirs_not:Good")
    assert "theirs_not" not in sys.modules
    with pytest.raises(SettingsError, match=r"PROTOCOL_MODULES, which has none$"):
        load("theirs.words:Good", PROTOCOL_MODULES="")


def test_two_protocols_share_no_path() -> None:
    with pytest.raises(SettingsError, match=r"/good is taken by theirs\.words:Good$"):
        load("theirs.words:Good", "theirs.words:Again")


@pytest.mark.parametrize("value", ["theirs", "theirs:", "theirs.words.Good", "a b:C", "../a:B"])
def test_a_name_has_a_module_and_a_class(value: str) -> None:
    with pytest.raises(SettingsError, match=r"^PROTOCOLS="):
        Settings.load({"PROTOCOLS": value})


async def test_no_page_of_the_sidecars_can_be_taken() -> None:
    async with house(METRICS_PORT="9") as there:
        dispatch = there.sidecar.dispatch
        pages = {*dispatch._built_in.paths, *dispatch._scraped.paths}
    assert {page.split("/")[1] for page in pages} <= set(OWN)
