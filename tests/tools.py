"""What some tests need of the machine: programs (scripts/install-tools.sh) and vLLM's source."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import pytest


def tool(name: str) -> str:
    """The path of a program. Without it the test is skipped; with REQUIRE_TOOLS it fails."""
    path = shutil.which(name)
    if path is None:
        _missing(f"no {name}: scripts/install-tools.sh, or: apt-get install prometheus chromium")
    return path


def installed(package: str) -> Path:
    """The folder of an installed package, which is read and not imported: that takes torch.

    Without it the test is skipped; with REQUIRE_TOOLS it fails.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        _missing(f"{package} is not installed: make test")
    return Path(spec.origin).parent


def needs(package: str) -> pytest.MarkDecorator:
    """For a test whose child process reads an installed package.

    Without it the test is skipped; with REQUIRE_TOOLS it runs, and fails.
    """
    is_missing = find_spec(package) is None and not os.environ.get("REQUIRE_TOOLS")
    return pytest.mark.skipif(is_missing, reason=f"{package} is not installed: make test")


def _missing(what: str) -> NoReturn:
    if os.environ.get("REQUIRE_TOOLS"):
        pytest.fail(what)
    pytest.skip(what)
