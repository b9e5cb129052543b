"""Building the demo model: whole or not at all, once, and readable by transformers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.models import demo
from tests.engine.service import wait_until
from tests.patience import PATIENCE

pytestmark = pytest.mark.engine

PROJECT = Path(__file__).resolve().parents[2]
FILES = {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "demo-recipe.json",
    "generation_config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models") / "demo"
    demo.build(directory)
    return directory


def python(code: str, *arguments: str) -> str:
    """Run `code` in a process of its own, without a network."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=PROJECT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_build_writes_every_file_readable_by_all(model: Path) -> None:
    assert {path.name for path in model.iterdir()} == FILES
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in model.iterdir())
    assert demo.is_complete(model)


def test_model_card_says_random_weights(model: Path) -> None:
    assert "RANDOM WEIGHTS" in (model / "README.md").read_text().splitlines()[0]


def test_same_recipe_gives_the_same_files(model: Path, tmp_path: Path) -> None:
    demo.build(tmp_path / "again")
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (model / name).read_bytes(), name


def test_command_builds_once_and_prints_the_path(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "cache/demo"
    assert demo.main([str(directory)]) == 0
    first = capsys.readouterr().out.splitlines()
    assert "RANDOM WEIGHTS" in first[0]
    assert first[-1] == str(directory)
    written = (directory / "model.safetensors").stat().st_mtime_ns
    assert demo.main([str(directory)]) == 0
    assert "found" in capsys.readouterr().out
    assert (directory / "model.safetensors").stat().st_mtime_ns == written


def test_changed_recipe_builds_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "demo"
    demo.build(directory)
    (directory / "left-over").touch()
    monkeypatch.setattr(demo, "RECIPE_VERSION", demo.RECIPE_VERSION + 1)
    assert not demo.is_complete(directory)
    assert demo.main([str(directory)]) == 0
    assert demo.is_complete(directory)
    assert not (directory / "left-over").exists()


def test_interrupted_build_leaves_no_half_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "write_safetensors", interrupt)
    with pytest.raises(KeyboardInterrupt):
        demo.build(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_is_told_to_end_leaves_no_half_model(tmp_path: Path) -> None:
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow/tokenizers.py").write_text("import time\ntime.sleep(600)\n")
    models = tmp_path / "models"
    building = subprocess.Popen(
        [sys.executable, "-m", "proxy.models.demo", str(models / "demo")],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "slow")},
    )
    wait_until(lambda: any(models.glob(".demo.*.partial/demo")), PATIENCE, "half a model")
    building.terminate()
    assert building.wait(PATIENCE) == 128 + signal.SIGTERM
    assert list(models.iterdir()) == []


def test_a_disk_that_takes_no_more_is_told_in_one_line(tmp_path: Path) -> None:
    build = f"ulimit -f 1; exec {sys.executable} -m proxy.models.demo {tmp_path}/demo"
    done = subprocess.run(["bash", "-c", build], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "demo model: cannot write" in done.stderr
    assert "File too large" in done.stderr


def test_folder_of_someone_else_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/precious").touch()
    assert demo.main([str(tmp_path / "demo")]) == 1
    assert "cannot write" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["precious"]


def test_importing_it_costs_nothing() -> None:
    code = (
        "import sys, proxy.models.demo;"
        "print([m for m in ('torch', 'transformers', 'numpy', 'tokenizers') if m in sys.modules])"
    )
    assert python(code).strip() == "[]"


def test_transformers_finds_every_weight(model: Path) -> None:
    code = """
import json, sys, warnings
warnings.simplefilter("ignore")
from transformers import Idefics3ForConditionalGeneration as Model
model, report = Model.from_pretrained(sys.argv[1], output_loading_info=True)
print(json.dumps({"dtype": str(model.dtype), **{k: sorted(v) for k, v in report.items()}}))
"""
    report = json.loads(python(code, str(model)))
    assert report.pop("dtype") == "torch.bfloat16"
    assert not any(report.values()), report


def rendered(model: Path, messages: list[dict[str, object]], **extra: object) -> str:
    """The prompt as transformers makes it from the chat template."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((model / "chat_template.jinja").read_text())
    return template.render(messages=messages, add_generation_prompt=True, **extra)


def test_chat_template_takes_strings_parts_systems_and_tools(model: Path) -> None:
    parts = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    prompt = rendered(
        model,
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": parts},
            {"role": "assistant", "content": None, "tool_calls": [{"name": "look"}]},
            {"role": "tool", "content": "a cat"},
        ],
        tools=[{"name": "look"}],
    )
    assert prompt == (
        '<|im_start|>System: Tools: [{"name": "look"}]<end_of_utterance>\n'
        "<|im_start|>System: Be brief.<end_of_utterance>\n"
        "<|im_start|>User: <image>What is it?<end_of_utterance>\n"
        '<|im_start|>Assistant: [{"name": "look"}]<end_of_utterance>\n'
        "<|im_start|>Tool: a cat<end_of_utterance>\n"
        "<|im_start|>Assistant:"
    )


def test_any_text_survives_the_tokenizer(model: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    text = "Grüße, 日本 🎉\n\ttabs and <b>tags</b>"
    assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert len(tokenizer.encode("Alice was beginning to get very tired").ids) < 12
