"""Options and the environment they stand for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from proxy.__main__ import main
from proxy.commands import serve
from proxy.commands.command_line import with_options
from proxy.errors import SettingsError
from proxy.settings import Settings
from proxy.vllm.command import engine_command
from tests.engine.service import PROJECT, START, Service, wait_until
from tests.fake_engine import BIN
from tests.patience import PATIENCE
from tests.ports import free_ports


def changes(line: str, **environ: str) -> dict[str, str]:
    return with_options(line.split(), environ).environ


@pytest.mark.parametrize(
    ("line", "environ"),
    [
        ("--model-name x", {"MODEL_NAME": "x"}),
        ("org/x", {"MODEL_NAME": "org/x"}),
        ("--port 9000", {"PORT": "9000"}),
        ("--service-port=9000", {"PORT": "9000"}),
        ("--drain_seconds 10", {"DRAIN_SECONDS": "10"}),
        ("-tp 2", {"TENSOR_PARALLEL_SIZE": "2"}),
        ("--gpu-memory-utilization 0.5", {"GPU_MEMORY_UTIL": "0.5"}),
        ("--max-model-len -1", {"MAX_MODEL_LEN": "-1"}),
        ("--trust-remote-code org/x", {"TRUST_REMOTE_CODE": "true", "MODEL_NAME": "org/x"}),
        ("--no-warmup", {"WARMUP": "false"}),
        ("--warmup false", {"WARMUP": "false"}),
        ("--enforce-eager", {"ENFORCE_EAGER": "true"}),
        ("--no-enable-prefix-caching", {"ENABLE_PREFIX_CACHING": "false"}),
        ("--served-model-name a b --port 1", {"SERVED_MODEL_NAME": "a,b", "PORT": "1"}),
        ("--seed 1 --seed 2", {"SEED": "2"}),
    ],
)
def test_an_option_is_its_variable(line: str, environ: dict[str, str]) -> None:
    assert changes(line) == environ


def test_the_command_line_wins_over_every_spelling_in_the_environment() -> None:
    environ = {"SERVICE_PORT": "1", "MODEL_ID": "a", "SM_VLLM_SEED": "1", "SEED": "2", "HOST": "::"}
    line = changes("--port 9000 --model b --seed 3", **environ)
    assert line == {"PORT": "9000", "MODEL_NAME": "b", "SEED": "3", "HOST": "::"}


def test_flags_of_vllm_reach_the_engine_as_they_were_given() -> None:
    words = ["--lora-modules", '{"name": "a", "path": "b,c"}', "d=e", "--middleware", "m.a"]
    words += ["--middleware", "m.b", "--speculative-config.method", "a b"]
    settings = Settings.load(with_options(words, {}).environ)
    argv = engine_command(settings, model_path="m", served_names=["m"], has_gpu=False).argv
    shown = "\n".join(argv)
    assert '--lora-modules\n{"name": "a", "path": "b,c"}\nd=e' in shown
    assert "--middleware\nm.a\n--middleware\nm.b" in shown
    assert shown.endswith("--speculative-config.method\na b")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--prot", "1"], "unknown option: --prot; did you mean --port?"),
        (["--zzzzzzzz"], "unknown option: --zzzzzzzz; serve --help lists ours"),
        (["-x"], "unknown option: -x; "),
        (["--port"], "--port: a value is missing; allowed is --port VALUE"),
        (["--port", "--warmup"], "--port: a value is missing"),
        (["a/b", "c/d"], "unexpected argument: c/d; "),
        (["--no-warmup=false"], "--no-warmup: takes no value; "),
        (["--ssl-keyfile", "x"], "--ssl-keyfile is not allowed; TLS is left to "),
        (["--speculative-config", "x"], "SPECULATIVE_CONFIG='x' is no JSON"),
        (["--port.a", "1"], "unknown option: --port.a; "),
    ],
)
def test_a_wrong_option_is_one_line(words: list[str], says: str) -> None:
    with pytest.raises(SettingsError) as raised:
        with_options(words, {})
    assert str(raised.value).startswith(says)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["api-keys", "api-key", "hf-token"])
def test_a_secret_is_taken_and_warned_about_without_repeating_it(name: str) -> None:
    line = with_options([f"--{name}", "secret-1"], {})
    assert "secret-1" in json.dumps(line.environ)
    (warning,) = line.warnings
    assert warning.startswith(f"--{name}: every user of this machine can read a command line")
    assert "secret-1" not in warning


@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["check", "-h"]])
def test_help_fits_100_columns_and_imports_no_library(words: list[str]) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "proxy", *words]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert ("--wedge-seconds" in done.stdout) is (len(words) == 2)
    assert "pydantic" not in done.stderr


def test_an_unknown_option_of_the_process_is_exit_code_2_and_one_line() -> None:
    command = [sys.executable, "-m", "proxy", "--no-such-option"]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("unknown option: --no-such-option; ")
    assert done.stderr.count("\n") == 1


def test_a_letter_that_the_locale_cannot_show_ends_no_command() -> None:
    command = [sys.executable, "-m", "proxy", "check", "./f\u00fcr"]
    environ = {**os.environ, "PYTHONIOENCODING": "ascii", "PORT": str(free_ports(1)[0])}
    done = subprocess.run(command, cwd=PROJECT, env=environ, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert "The model folder f\\xfcr does not exist." in done.stdout


@pytest.mark.parametrize("name", ["otlp-traces-endpoint", "otlp-logs-endpoint"])
def test_a_url_that_may_hold_no_secret_may_stand_there(name: str) -> None:
    assert with_options([f"--{name}", "http://c:4318"], {}).warnings == ()


@pytest.mark.parametrize(
    ("line", "model"),
    [
        ("qwen2-vl-7b", "qwen2-vl-7b"),
        ("qwen2-vl-7b --port 9000", "qwen2-vl-7b"),
        ("qwen2-vl-7b,org/name", "qwen2-vl-7b,org/name"),
        ("theirs --models-inline [theirs]\nrepository='a/b'", "theirs"),
        ("*", "*"),
        ("org/name", "org/name"),
        ("serve gpt2", "gpt2"),
    ],
)
def test_a_model_alone_is_served(monkeypatch: pytest.MonkeyPatch, line: str, model: str) -> None:
    environ = {"MODELS_INLINE": "[mine]\nrepository='a/b'"}
    monkeypatch.setattr(os, "environ", environ)
    monkeypatch.setattr(serve, "serve", lambda: 7)
    assert main(line.split(" ")) == 7
    assert environ["MODEL_NAME"] == model


@pytest.mark.parametrize("word", ["serv", "qwen2-vl-7"])
def test_a_word_that_is_no_command_and_no_preset_is_told(
    capsys: pytest.CaptureFixture[str], word: str
) -> None:
    assert main([word, "--seed", "x"]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"unknown command: {word} ")
    assert "or a model: a preset, organisation/name, a folder as ./name" in told


@pytest.mark.parametrize("word", ["qwen2-vl-7b", "keys"])
def test_a_preset_and_a_command_without_options_are_asked_for_help_as_serve_is(
    capsys: pytest.CaptureFixture[str], word: str
) -> None:
    assert main([word, "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: ")


def test_start_sh_serves_what_its_options_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the entry point of the image is called: `docker run IMAGE --model-name X --port 9000`."""
    monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_ENGINE_PHASE_SECONDS", "0.02")
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["Qwen2ForCausalLM"]}')
    (port,) = free_ports(1)
    options = ["--model-name", str(model), "--port", str(port), "--tensor-parallel-size", "2"]
    options += ["--max-model-len", "8192", "--seed", "7"]
    environ = {"PYTHON": sys.executable, "HF_HUB_OFFLINE": "1", "HOST": "127.0.0.1"}
    with Service(tmp_path, (str(START), *options), MODEL_NAME="none", **environ):
        at = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=at, trust_env=False, timeout=PATIENCE) as client:

            def ready() -> bool:
                try:
                    return client.get("/health/ready").status_code == 200
                except httpx.TransportError:
                    return False

            wait_until(ready, PATIENCE, "the sidecar is ready")
            arguments = client.get("/info").json()["engine"]["arguments"]
    for name, value in (("--tensor-parallel-size", "2"), ("--max-model-len", "8192")):
        assert (name, value) in pairwise(arguments)
    assert ("--seed", "7") in pairwise(arguments)
    assert str(model) in arguments
