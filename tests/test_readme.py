"""README is short, what it tells to type works as it stands, and so does the guide's Python."""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import warnings
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy import __version__
from proxy.settings import variables
from proxy.telemetry.request_log import LogFields
from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE
from tests.readme import ROOT, blocks, commands, in_front, run_console, words
from tests.test_deployment import dockerfile
from tests.wire.service import Sidecar

README = (ROOT / "README.md").read_text(encoding="utf-8")
MOST_WORDS = 1300
CONSOLES = [commands(block) for block in blocks("README.md", "console")]
QUICK_START = [commands(block) for block in blocks("docs/quick-start.md", "console")]
GUIDE = blocks("docs/clients.md", "python")


def test_it_is_read_in_five_minutes() -> None:
    assert len(README.split()) <= MOST_WORDS


def test_its_variables_are_settings() -> None:
    table = README.split("| Variable | What it sets |\n")[1].split("\n\n")[0]
    names = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert len(names) == 10
    assert set(names) <= {name for spellings in variables().values() for name in spellings}


def test_its_log_line_has_fields_that_are_written() -> None:
    (text,) = blocks("README.md", "json")
    line = json.loads(text)
    written = ["message", *LogFields.__struct_fields__]
    assert [name for name in written if name in line] == list(line)


def test_each_guarantee_has_a_page_and_a_test() -> None:
    section = README.split("## What it guarantees\n")[1].split("\n## ")[0]
    items = re.split(r"^\d\. ", section, flags=re.MULTILINE)[1:]
    assert len(items) == 8
    for item in items:
        assert re.search(r"\]\(docs/[\w-]+\.md", item), item
        assert re.search(r"\[test\]\(tests/[\w/]+\.py\)", item), item


# Commands ---------------------------------------------------------------------------------------


def test_every_command_is_run_below() -> None:
    assert [typed[0].split()[0] for typed in CONSOLES] == ["docker", "make", "cp", "curl"]
    assert [len(typed) for typed in CONSOLES] == [1, 2, 2, 3]


def test_the_stock_image_is_the_dockerfiles_and_the_package_is_this_version() -> None:
    """Its form; `make image` runs it, on a stand-in for vLLM's image."""
    (command,) = CONSOLES[0]
    typed = words(command)
    assert typed[:2] == ["docker", "run"]
    base = " ".join(dockerfile("ARG"))
    (image,) = (word for word in typed if word.startswith("vllm/vllm-openai:"))
    assert set(image.split(":")) <= set(re.split(r"[ =]", base))
    assert typed[-1] == f"pip install --no-deps vllm-sidecar=={__version__} && exec vllm-sidecar"
    page = blocks("docs/deploying.md", "console")
    assert blocks("README.md", "console")[0] in page


@pytest.mark.parametrize("command", CONSOLES[1])
def test_the_two_commands_are_targets_that_make_knows(command: str) -> None:
    done = subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_docker_is_asked_for_what_compose_has(tmp_path: Path) -> None:
    """Its form only: there is no Docker where the tests run."""
    copy, start = CONSOLES[2]
    (tmp_path / ".env.example").write_bytes((ROOT / ".env.example").read_bytes())
    subprocess.run(copy.split(), cwd=tmp_path, check=True)
    assert (tmp_path / ".env").is_file()
    assert start.split() == ["docker", "compose", "up", "--build", "--wait"]
    sidecar = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["sidecar"]
    assert "build" in sidecar
    assert "healthcheck" in sidecar


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    with FakeEngine("--disable-uvicorn-access-log", "--served-model-name", "demo") as engine:
        yield engine


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, engine: FakeEngine) -> Iterator[Sidecar]:
    with Sidecar(tmp_path_factory.mktemp("sidecar"), engine) as sidecar:
        sidecar.wait_until_ready()
        yield sidecar


def test_quick_start_asks_what_readme_asks() -> None:
    (asking,) = (each for each in QUICK_START if "request.json" in each[0])
    assert asking[0] == CONSOLES[3][1]


def test_quick_start_begins_in_the_stock_image_and_asks_what_is_served(
    sidecar: Sidecar, tmp_path: Path
) -> None:
    """Without a model's name, whichever that is."""
    assert blocks("docs/quick-start.md", "console")[0] == blocks("README.md", "console")[0]
    done = run_console(QUICK_START[1], sidecar.port, tmp_path)
    assert done.returncode == 0, done.stderr
    health, answer = (json.loads(line) for line in done.stdout.replace("}{", "}\n{").splitlines())
    assert health["status"] == "ready"
    assert answer["model"] == "demo"
    assert answer["choices"][0]["message"]["content"]


def test_curl_asks_about_a_picture_and_gets_a_stream(sidecar: Sidecar, tmp_path: Path) -> None:
    done = run_console(CONSOLES[3], sidecar.port, tmp_path)
    assert done.returncode == 0, done.stderr
    health, _, stream = done.stdout.partition("data: ")
    assert json.loads(health)["status"] == "ready"
    assert stream.endswith("data: [DONE]\n\n")


def test_the_program_of_readme_prints_an_answer(sidecar: Sidecar) -> None:
    (code,) = blocks("README.md", "python")
    done = subprocess.run(
        [sys.executable, "-c", in_front(code, sidecar.port)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


# The guide ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(1, len(GUIDE)))
def test_a_program_of_the_guide_runs_behind_its_first_lines(
    number: int,
    sidecar: Sidecar,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process: a new one would spend a second on the import of openai each time."""
    monkeypatch.chdir(tmp_path)
    Path("examples").symlink_to(ROOT / "examples")
    with wave.open("speech.wav", "wb") as speech:
        speech.setparams((1, 2, 16000, 0, "NONE", "not compressed"))
        speech.writeframes(bytes(32000))
    names: dict[str, Any] = {}
    exec(in_front(GUIDE[0] + GUIDE[number], sidecar.port), names)
    assert capsys.readouterr().out.strip()
    with warnings.catch_warnings():  # as a process that ends, they leave their clients open
        warnings.simplefilter("ignore", ResourceWarning)
        names.clear()
        gc.collect()
