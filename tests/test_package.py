"""The wheel: installed beside the packages of the vLLM image, it runs from any folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import zipfile
from email import message_from_string
from importlib.metadata import version
from pathlib import Path

import pytest

from proxy import __version__
from proxy.check_base import unmet
from tests.engine.service import Service
from tests.fake_engine import BIN
from tests.patience import PATIENCE

ROOT = Path(__file__).resolve().parent.parent


def build_wheel(folder: Path) -> Path:
    """Built from a copy of what git holds, so that nothing is left in the tree."""
    source = folder / "source"
    files = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, source], check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`vllm-sidecar` as pip installs it, without what it depends on: the image has that."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, "--target", folder, wheel], check=True, capture_output=True)
    return folder / "bin" / "vllm-sidecar"


def environ(command: Path, **more: str) -> dict[str, str]:
    kept = {"HOME": os.environ.get("HOME", "/root"), "PATH": f"{BIN}:{os.environ['PATH']}"}
    return {**kept, "PYTHONPATH": str(command.parent.parent), **more}


def run(command: Path, *arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [command, *arguments],
        cwd=folder,
        env=environ(command),
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_wheel_holds_the_sidecar_with_its_data_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"proxy", f"vllm_sidecar-{__version__}.dist-info"}
    tracked = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "proxy"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    ).stdout.split()
    assert {name for name in names if name.startswith("proxy/")} == {
        name for name in tracked if (ROOT / name).is_file()
    }


def test_the_wheel_needs_what_requirements_txt_says(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    text = archive.read(f"vllm_sidecar-{__version__}.dist-info/METADATA").decode()
    metadata = message_from_string(text)
    assert metadata["Version"] == __version__
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = {line.split(";")[0].strip() for line in lines if line and line[0] != "#"}
    needed = metadata.get_all("Requires-Dist", [])
    assert {need.split(";")[0].strip() for need in needed if "extra ==" not in need} == wanted
    assert set(metadata.get_all("Provides-Extra", [])) == {"dev", "engine"}


def test_help_and_check_answer_in_any_folder(command: Path, tmp_path: Path) -> None:
    told = run(command, "--help", folder=tmp_path)
    assert (told.returncode, told.stderr) == (0, "")
    assert "check" in told.stdout
    checked = run(command, "check", folder=tmp_path)
    assert checked.returncode in (0, 1), checked.stderr
    assert "engine port" in checked.stdout
    refused = run(command, "no-such-command", folder=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("unknown command: no-such-command")


def test_messages_name_commands_that_a_package_has(command: Path, tmp_path: Path) -> None:
    code = (
        "from proxy.vllm.architectures import missing_package_remedy as remedy; print(remedy(''))"
    )
    remedy = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environ(command),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    told = [run(command, *words, folder=tmp_path).stdout for words in (["check"], ["--help"])]
    assert "pip install 'vllm-sidecar[engine]'" in remedy
    assert "`vllm-sidecar keys` makes a key" in told[0]
    assert "vllm-sidecar check" in told[1]
    assert not re.search(r"python3 -m proxy|install-engine|make run", remedy + "".join(told))


@pytest.mark.parametrize("words", [["--help"], ["serve", "--help"], ["check", "-h"]])
def test_help_imports_none_of_the_packages(command: Path, tmp_path: Path, words: list[str]) -> None:
    """It answers at once: 70 ms of CPU instead of half a second."""
    code = f"import sys; from proxy.__main__ import main; main({words}); print(*sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environ(command),
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = set(told.stdout.split())
    assert not loaded & {"starlette", "pydantic", "httpx", "aiohttp", "uvloop", "huggingface_hub"}


def test_it_serves_from_any_folder_with_an_engine_of_its_own(command: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["Qwen2ForCausalLM"]}')
    with Service(
        tmp_path,
        ("env", "-C", str(tmp_path), str(command)),
        **environ(command, MODEL_NAME=str(model), HOST="127.0.0.1"),
    ) as service:
        service.wait_for("ready", PATIENCE)
        assert service.client.get("/dashboard").status_code == 200
        asked = {"model": str(model), "messages": [{"role": "user", "content": "hello"}]}
        assert service.client.post("/v1/chat/completions", json=asked).status_code == 200


def test_what_is_missing_beside_it_is_one_line(command: Path, tmp_path: Path) -> None:
    """A Python without site-packages, with the wheel alone."""
    done = subprocess.run(
        [sys.executable, "-S", command, "check"],
        cwd=tmp_path,
        env=environ(command),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.endswith("does not fit vllm-sidecar: packaging (here: none)")


def test_a_version_that_does_not_fit_is_named() -> None:
    needs = ["httpx<0.1", "pytest>=8", 'x; extra == "dev"', "no-such-package>=2"]
    assert list(unmet(needs)) == [
        f"httpx<0.1 (here: {version('httpx')})",
        "no-such-package>=2 (here: none)",
    ]


def test_its_children_run_no_package_of_its_name_that_lies_where_it_was_started(
    command: Path, tmp_path: Path
) -> None:
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy/__init__.py").write_text("raise RuntimeError('not ours')")
    with Service(
        tmp_path,
        ("env", "-C", str(tmp_path), str(command)),
        **environ(command, MODEL_NAME="demo", HOST="127.0.0.1"),
    ) as service:
        service.wait_for("ready", PATIENCE)


@pytest.mark.parametrize("name", ["requirements-dev.txt", "constraints-dev.txt"])
def test_the_tools_are_pinned_but_for_what_the_engine_decides(name: str) -> None:
    lines = (ROOT / name).read_text().splitlines()
    free = {
        re.split(r"[<>=]", line)[0]
        for line in lines
        if line[:1] not in ("", "#") and "==" not in line
    }
    shared = {"PyYAML", "jsonschema", "pillow", "openai", "anthropic", "websockets", "setuptools"}
    assert free <= shared
