"""`MODEL_NAME=that-name`: what the preset gives, and what one's own variables keep."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from proxy.errors import SettingsError
from proxy.models.kind import kind_of
from proxy.models.preset_choice import load_settings, presets_of, warnings_about_presets
from proxy.settings import Settings
from proxy.vllm.command import engine_command
from tests.proxy.house import house

TEXT = """
[mine]
repository = "org/model"
revision = "v1"
[mine.engine]
MAX_MODEL_LEN = 8192
GPU_MEMORY_UTIL = 0.8
IMAGE_LIMIT = 4
TOKENIZER = "a/b"
ENABLE_AUTO_TOOL_CHOICE = true
TOOL_CALL_PARSER = "hermes"

[qwen3-8b]
repository = "org/other"
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "models.toml"
    path.write_text(TEXT)
    return str(path)


def argv(settings: Settings) -> list[str]:
    names = settings.served_model_names
    return list(engine_command(settings, model_path="/m", served_names=names, has_gpu=True).argv)


def flag(settings: Settings, name: str) -> str:
    """What vLLM would take: the last one."""
    words = argv(settings)
    return words[len(words) - words[::-1].index(f"--{name}")]


def test_the_name_of_a_preset_gives_its_model_and_its_arguments(file: str) -> None:
    settings = load_settings({"MODEL_NAME": "mine", "MODELS_FILE": file})
    assert (settings.model_name, settings.model_revision) == ("org/model", "v1")
    assert settings.served_model_names == ("mine", "org/model")
    assert flag(settings, "max-model-len") == "8192"
    assert flag(settings, "gpu-memory-utilization") == "0.8"
    assert flag(settings, "tokenizer") == "a/b"
    assert '"image": 4, "video": 1' in flag(settings, "limit-mm-per-prompt")
    assert "--enable-auto-tool-choice" in argv(settings)
    assert settings.preset is not None
    assert settings.preset.overruled == ()


@pytest.mark.parametrize("alias", ["MODEL_NAME", "MODEL_ID", "VLLM_MODEL_NAME"])
def test_every_name_of_the_models_variable_picks_a_preset(file: str, alias: str) -> None:
    assert load_settings({alias: "mine", "MODELS_FILE": file}).model_name == "org/model"


@pytest.mark.parametrize(
    ("own", "flag_name", "value"),
    [
        ({"MAX_MODEL_LEN": "100"}, "max-model-len", "100"),
        ({"GPU_MEMORY_UTILIZATION": "0.5"}, "gpu-memory-utilization", "0.5"),
        ({"VLLM_EXTRA_ARGS": "--max-model-len 7"}, "max-model-len", "7"),
        ({"LIMIT_MM_PER_PROMPT": '{"image":1}'}, "limit-mm-per-prompt", '{"image":1}'),
        ({"TOKENIZER_NAME": "c/d"}, "tokenizer", "c/d"),
        ({"SERVED_MODEL_NAME": "x"}, "served-model-name", "x"),
    ],
)
def test_variables_of_ones_own_win(
    file: str, own: dict[str, str], flag_name: str, value: str
) -> None:
    settings = load_settings({"MODEL_NAME": "mine", "MODELS_FILE": file, **own})
    assert flag(settings, flag_name) == value


def test_what_is_turned_off_stays_off_and_is_logged(file: str) -> None:
    own = {"ENABLE_AUTO_TOOL_CHOICE": "false", "MODEL_REVISION": "v2"}
    settings = load_settings({"MODEL_NAME": "mine", "MODELS_FILE": file, **own})
    assert "--enable-auto-tool-choice" not in argv(settings)
    assert settings.model_revision == "v2"
    assert settings.preset is not None
    assert settings.preset.overruled == ("MODEL_REVISION", "ENABLE_AUTO_TOOL_CHOICE")
    sentence = settings.preset.sentence()
    assert sentence.startswith(f"mine of {file}: MODEL_NAME=org/model ")
    assert sentence.endswith("set by you instead: MODEL_REVISION, ENABLE_AUTO_TOOL_CHOICE")


def test_an_empty_variable_is_unset_and_leaves_the_presets(file: str) -> None:
    settings = load_settings({"MODEL_NAME": "mine", "MODELS_FILE": file, "MAX_MODEL_LEN": " "})
    assert settings.max_model_len == "8192"


def test_ones_own_file_comes_before_the_shipped_one(file: str) -> None:
    environ = {"MODEL_NAME": "qwen3-8b"}
    assert load_settings(environ).model_name == "Qwen/Qwen3-8B"
    assert load_settings({**environ, "MODELS_FILE": file}).model_name == "org/other"
    both = presets_of(Settings.load({"MODELS_FILE": file}))
    assert list(both)[:2] == ["mine", "qwen3-8b"]
    assert "gpt-oss-20b" in both


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen3-8B", "/models/qwen3-8b", "./qwen3-8b", "demo", "gpt2"]
)
def test_any_other_name_is_what_it_was(name: str) -> None:
    settings = load_settings({"MODEL_NAME": name})
    assert (settings.model_name, settings.preset) == (name, None)
    assert warnings_about_presets(settings) == ()
    assert kind_of(name)


def test_a_bad_file_stops_a_start_even_if_nothing_of_it_is_asked_for(tmp_path: Path) -> None:
    bad = tmp_path / "models.toml"
    bad.write_text("[mine]\n")
    with pytest.raises(SettingsError, match="has no repository"):
        load_settings({"MODEL_NAME": "org/model", "MODELS_FILE": str(bad)})


def test_a_name_that_is_almost_one_is_warned_about() -> None:
    (warning,) = warnings_about_presets(load_settings({"MODEL_NAME": "Qwen3-8b"}))
    assert warning == "MODEL_NAME=Qwen3-8b is no preset. Did you mean qwen3-8b?"


def test_a_name_that_is_too_long_for_a_folder_is_none() -> None:
    assert warnings_about_presets(Settings.load({"MODEL_NAME": "x" * 300})) == ()


def test_a_preset_is_nothing_to_an_engine_that_someone_else_runs() -> None:
    environ = {"MODEL_NAME": "qwen3-8b", "UPSTREAM_URL": "http://127.0.0.1:1"}
    settings = load_settings(environ)
    assert settings.preset is None
    assert settings.served_model_names == ()
    (warning,) = warnings_about_presets(settings)
    assert "no effect with UPSTREAM_URL" in warning


async def test_info_and_the_log_tell_what_the_preset_gave(
    file: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "proxy")
    async with house(MODEL_NAME="mine", MODELS_FILE=file, MAX_MODEL_LEN="100") as there:
        model = (await there.get("/info")).json()["model"]
        there.lifecycle.announce_settings()
    assert model["name"] == "org/model"
    preset = model["preset"]
    assert (preset["name"], preset["file"]) == ("mine", file)
    assert preset["variables"]["IMAGE_LIMIT"] == "4"
    assert "MAX_MODEL_LEN" not in preset["variables"]
    assert preset["overruled"] == ["MAX_MODEL_LEN"]
    assert f"preset: mine of {file}: MODEL_NAME=org/model" in caplog.text


async def test_a_secret_in_what_the_preset_gave_is_in_no_log_and_no_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "proxy")
    file = tmp_path / "models.toml"
    engine = """CHAT_TEMPLATE = "https://me:hush@example.com/x"
[mine.engine.MODEL_LOADER_EXTRA_CONFIG]
s3_secret_access_key = "hush"
tensorizer_uri = "s3://bucket"
"""
    file.write_text(f"[mine]\nrepository = 'org/model'\n[mine.engine]\n{engine}")
    async with house(MODEL_NAME="mine", MODELS_FILE=str(file)) as there:
        info = (await there.get("/info")).text
        there.lifecycle.announce_settings()
    for text in (info, caplog.text):
        assert "hush" not in text
        assert "s3://bucket" in text
        assert "https://***@example.com/x" in text
