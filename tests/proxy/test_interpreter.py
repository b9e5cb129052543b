"""`python3 -m proxy` as README writes it, by a Python that has none of the packages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.interpreter import is_command
from tests.engine.service import PROJECT


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A fresh clone."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PROJECT / "proxy", tmp_path / "clone/proxy", ignore=ignored)
    (tmp_path / "clone/scripts").mkdir()
    shutil.copy(PROJECT / "scripts/install-engine.sh", tmp_path / "clone/scripts")
    return tmp_path / "clone"


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    return tmp_path / "bare/bin/python3"


def run(python: Path, checkout: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [python, "-m", "proxy", *words], cwd=checkout, env=environ, capture_output=True, text=True
    )


@pytest.mark.parametrize("words", [("models",), ("keys", "alice"), ("--help",)])
def test_it_goes_on_in_the_projects_environment(
    checkout: Path, bare_python: Path, words: tuple[str, ...]
) -> None:
    python = checkout / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    done = run(bare_python, checkout, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_without_one_it_says_in_one_line_what_to_do(checkout: Path, bare_python: Path) -> None:
    done = run(bare_python, checkout, "check")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert "`make run`" in line


def test_only_the_command_itself_is_looked_at() -> None:
    assert is_command(["python3", "-m", "proxy", "check"])
    assert not is_command(["python3", "-m", "pytest", "proxy"])
    assert not is_command(["python3", "-m", "proxy.engine.guard", "sh"])


def test_no_page_says_python_without_a_version_which_many_machines_lack() -> None:
    for page in (PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")):
        for command in ("`python ", "$ python "):
            assert command not in page.read_text(), page.name
