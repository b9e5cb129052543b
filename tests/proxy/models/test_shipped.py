"""The shipped presets: every argument is one of the installed vLLM's, and each has its source."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest

from proxy.models.preset_choice import SHIPPED, load_settings
from proxy.models.preset_file import read_presets
from proxy.settings import Settings
from proxy.settings.preset import Preset
from proxy.vllm.command import engine_command, warnings_about
from proxy.vllm.flags import flag_name, known_flags
from tests.tools import installed

PRESETS = read_presets(SHIPPED)
EACH = pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))


@cache
def parsers(package: str, table: str) -> frozenset[str]:
    """Names in a table of the installed vLLM, read from its source: importing it takes torch."""
    tree = ast.parse((installed("vllm") / package / "__init__.py").read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            (target,) = node.targets
            if isinstance(target, ast.Name) and target.id == table:
                return frozenset(ast.literal_eval(key) for key in node.value.keys if key)
    raise AssertionError(f"{package} has no {table}")


@EACH
def test_a_preset_makes_a_command_of_flags_that_vllm_has(preset: Preset) -> None:
    settings = load_settings({"MODEL_NAME": preset.name})
    assert warnings_about(settings) == ()
    names = settings.served_model_names
    argv = engine_command(settings, model_path="/m", served_names=names, has_gpu=True).argv
    given = {word[2:] for word in argv if word.startswith("--")}
    accepted = set(known_flags()) | {f"no-{name}" for name in known_flags()}
    assert given <= accepted
    for name, text in preset.engine_variables.items():
        if name not in Settings.model_fields and flag_name(name) in known_flags():
            choices = known_flags()[flag_name(name)].choices
            assert not choices or text in choices


@EACH
def test_parsers_are_ones_that_the_installed_vllm_has(preset: Preset) -> None:
    given = preset.engine_variables
    tools = parsers("tool_parsers", "_TOOL_PARSERS_TO_REGISTER")
    reasoning = parsers("reasoning", "_REASONING_PARSERS_TO_REGISTER")
    assert given.get("TOOL_CALL_PARSER") in {*tools, None}
    assert given.get("REASONING_PARSER") in {*reasoning, None}
    assert ("TOOL_CALL_PARSER" in given) == ("ENABLE_AUTO_TOOL_CHOICE" in given)


@EACH
def test_a_preset_says_what_it_needs_and_where_that_is_written(preset: Preset) -> None:
    assert preset.gpu_memory_gb is not None
    assert preset.sources
    assert all(re.match(r"https://[\w.]+/\S+$", source) for source in preset.sources)
    assert preset.repository.count("/") == 1
