"""Which package a module of vLLM's lacks, read from its source."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.vllm import module_imports
from proxy.vllm.module_imports import missing_package

MODELS = "vllm.model_executor.models."
# Prints for each module what its import has raised.
IMPORT_EACH = """
import importlib, json, sys
errors = []
for name in sys.argv[1:]:
    try:
        errors.append(importlib.import_module(name) and None)
    except ModuleNotFoundError as error:
        errors.append(str(error))
print(json.dumps(errors))
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an installed vLLM's models, empty as yet."""
    is_installed = module_imports._is_installed
    folder = tmp_path / "vllm/model_executor/models"
    folder.mkdir(parents=True)
    monkeypatch.setattr(module_imports, "package_folder", lambda name: tmp_path / name)
    monkeypatch.setattr(
        module_imports, "_is_installed", lambda name: name == "vllm" or is_installed(name)
    )
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
    names = ["qwen2_vl", "idefics3"]
    command = [sys.executable, "-c", IMPORT_EACH, *(MODELS + name for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    errors = json.loads(done.stdout.splitlines()[-1])
    for name, error in zip(names, errors, strict=True):
        missing = missing_package(MODELS + name)
        assert error == (missing and f"No module named '{missing}'"), error
