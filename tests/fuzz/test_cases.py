"""Everything that a fuzzer ever found stays found; its seeds and its runner work."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.__main__ import REPOSITORY
from tests.fuzz.seeds import SEEDS

CASES = Path(__file__).parent / "cases"
SECONDS = 60


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


def test_without_atheris_the_runner_says_so_in_one_line() -> None:
    code = "import sys; sys.modules['atheris'] = None; from tests.fuzz.__main__ import main; "
    done = subprocess.run(
        [sys.executable, "-c", code + "sys.exit(main(['body', '--seconds', '1']))"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 1
    assert done.stdout == "python -m tests.fuzz: atheris is not installed (pip install atheris)\n"
    assert done.stderr == ""
