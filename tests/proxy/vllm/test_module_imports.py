"""Which package a module of vLLM's lacks, read from its source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.vllm import module_imports
from proxy.vllm.module_imports import missing_package

MODELS = "vllm.model_executor.models."


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed vLLM's models, empty as yet."""
    folder = tmp_path / "vllm/model_executor/models"
    folder.mkdir(parents=True)
    monkeypatch.setattr(module_imports, "package_folder", lambda name: tmp_path / name)
    return folder


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("import json", None),
        ("import nowhere_to_be_found", "nowhere_to_be_found"),
        ("from nowhere_to_be_found.v2 import functional as F", "nowhere_to_be_found"),
        ("from .other import thing", "another_that_is_missing"),
        ("from . import other", "another_that_is_missing"),
        ("from vllm.model_executor.models.other import thing", "another_that_is_missing"),
        ("from .nothing import thing", None),
        # Only looked for where somebody asks for it.
        ("try:\n    import nowhere_to_be_found\nexcept ImportError:\n    pass", None),
        ("if is_available():\n    import nowhere_to_be_found", None),
        ("def later():\n    import nowhere_to_be_found", None),
        ('"""\nimport nowhere_to_be_found\n"""', None),
        ("import (", None),
    ],
)
def test_only_what_is_imported_without_a_condition_is_missed(
    write: Path, source: str, missing: str | None
) -> None:
    (write / "mine.py").write_text(source)
    (write / "other.py").write_text("from . import mine\nimport another_that_is_missing")
    assert missing_package(MODELS + "mine") == missing


@pytest.mark.engine
def test_what_it_says_of_the_installed_vllm_is_what_python_says() -> None:
    """One model that wants a package which may be missing, and one that does not."""
    for name in ("qwen2_vl", "idefics3"):
        code = f"import vllm.model_executor.models.{name}"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        missing = missing_package(MODELS + name)
        assert (done.returncode == 0) is (missing is None), done.stderr
        if missing is not None:
            assert f"No module named '{missing}'" in done.stderr
