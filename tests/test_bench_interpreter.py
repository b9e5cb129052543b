"""The benchmark's Python: named, or the system's, or our own; never one that cannot run ours."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from bench import interpreter as bench


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    bench.interpreter.cache_clear()
    yield
    bench.interpreter.cache_clear()


def test_one_that_is_named_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bench.VARIABLE, sys.executable)
    assert bench.interpreter() == sys.executable
    version = ".".join(map(str, sys.version_info[:3]))
    assert bench.described() == f"{version} ({sys.executable})"


@pytest.mark.parametrize("name", ["/bin/false", "/nowhere/python"])
def test_one_that_is_named_and_cannot_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(bench.VARIABLE, name)
    with pytest.raises(SystemExit, match=f"BENCH_PYTHON={name} cannot load"):
        bench.interpreter()


@pytest.mark.parametrize("system", ["/bin/false", "/nowhere/python"])
def test_without_one_of_our_version_it_is_our_own(
    system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(bench.VARIABLE, raising=False)
    monkeypatch.setattr(bench, "_SYSTEM", system)
    assert bench.interpreter() == sys.executable
