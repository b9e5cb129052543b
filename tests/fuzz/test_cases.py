"""Everything that a fuzzer ever found stays found; its seeds hold."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from tests.fuzz.seeds import SEEDS

CASES = Path(__file__).parent / "cases"


def kept() -> list[str]:
    return sorted(f"{path.parent.name}/{path.name}" for path in CASES.glob("*/*"))


@pytest.mark.parametrize("name", kept())
def test_a_finding_is_found_no_more(name: str) -> None:
    target = importlib.import_module(f"tests.fuzz.{name.partition('/')[0]}")
    target.run((CASES / name).read_bytes())


@pytest.mark.parametrize("target", SEEDS)
def test_every_seed_holds(target: str) -> None:
    for seed in SEEDS[target]:
        importlib.import_module(f"tests.fuzz.{target}").run(seed)
