"""The reference pages are what the code declares, and every value on them starts the sidecar."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from proxy.models.preset_choice import load_settings
from proxy.settings import Settings, variables
from proxy.vllm.command import engine_command, warnings_about
from scripts import reference

ROOT = Path(__file__).resolve().parent.parent
ENV_EXAMPLE = (ROOT / ".env.example").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
# What must be there before they mean something: a file, an installed module.
OF_FILES = {"MODELS_FILE", "API_KEYS_FILE", "PROTOCOLS", "LOG_FILE"}


def test_a_stale_page_fails_the_check_until_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    page.write_text("of yesterday")
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    monkeypatch.setattr(reference, "pages", lambda: {page: "of today"})
    assert reference.main(["--check"]) == 1
    assert capsys.readouterr().err == "page.md: stale; run .venv/bin/python scripts/reference.py\n"
    assert reference.main([]) == 0
    assert reference.main(["--check"]) == 0
    assert page.read_text() == "of today"


def test_a_page_without_the_block_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "page.md").write_text("no block")
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    with pytest.raises(SystemExit, match=r"page\.md has no block 'names'"):
        reference.filled("page.md", {"names": "a, b"})


def env_example() -> dict[str, str]:
    """Every variable with its value, as the shell reads it once the `#` is gone."""
    pairs = re.findall(r"^#([A-Z_]+)=(.*)$", ENV_EXAMPLE, re.MULTILINE)
    return {name: "".join(shlex.split(value)) for name, value in pairs}


def test_a_copy_of_env_example_changes_nothing_until_a_sign_is_taken_away() -> None:
    lines = ENV_EXAMPLE.splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == []
    assert len(env_example()) == len(re.findall(r"^#[A-Z_]+=", ENV_EXAMPLE, re.MULTILINE))
    assert {name for names in variables().values() for name in names} <= env_example().keys()


def test_the_defaults_of_env_example_are_those_without_it() -> None:
    for field, (name, *_) in variables().items():
        if default := reference.as_text(Settings.model_fields[field].default):
            assert env_example()[name] == default
            assert Settings.load({name: default}).model_dump() == Settings.load({}).model_dump()


@pytest.mark.parametrize("name", env_example())
def test_each_value_of_env_example_is_a_good_one(name: str) -> None:
    examples = env_example()
    given = {name: examples[name]}
    if name == "KEY_LIMITS":  # which are about keys
        given["API_KEYS"] = examples["API_KEYS"]
    if name not in OF_FILES:
        assert warnings_about(load_settings(given)) == ()
    else:
        Settings.load(given)
    engine_command(Settings.load(given), model_path="m", served_names=["m"], has_gpu=True)


def test_env_example_without_any_sign_is_an_environment_too() -> None:
    settings = Settings.load(env_example())
    engine_command(settings, model_path="m", served_names=["m"], has_gpu=True)
    assert len(settings.api_keys) == 2


def test_every_variable_has_an_anchor_of_its_own() -> None:
    anchors = re.findall(r'<a id="(\w+)"></a>`(\w+)`', CONFIGURATION)
    assert [name for _, name in anchors] == [names[0] for names in variables().values()]
    assert [anchor for anchor, _ in anchors] == [name.lower() for _, name in anchors]


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("PORT", "`8000` | port | whole, 1 to 65535"),
        ("LOG_LEVEL", "`info` | | `debug`, `info`, `warning`, `error`"),
        ("MEDIA_FETCH", "— | | `proxy`, `engine`"),
        ("GPU_MEMORY_UTIL", "— | | more than 0, 1 at most"),
        ("MAX_BODY_MB", "`256` | MiB | more than 0"),
        ("WARMUP", "`true` | | `true`, `false`"),
        ("WEDGE_SECONDS", "`60` | s | 0 or more"),
    ],
)
def test_a_row_says_default_unit_and_what_is_allowed(name: str, cells: str) -> None:
    assert f"`{name}` | {cells} | " in CONFIGURATION
