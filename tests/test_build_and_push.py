"""scripts/build-and-push.sh, with a docker that writes down what it was asked."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DIGEST = f"sha256:{'ab' * 32}"

FAKE_DOCKER = """\
#!/usr/bin/env bash
printf '%q ' "$@" >> "$DOCKER_LOG"
while (($#)); do
  if [[ $1 == --metadata-file ]]; then
    printf '{\\n "buildx.build.ref": "a",\\n "containerimage.digest": "%s"\\n}\\n' "$DIGEST" > "$2"
  fi
  shift
done
exit "${DOCKER_EXIT:-0}"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A clean checkout that holds the script, and a docker on the way to it."""
    project = tmp_path / "project"
    (project / "scripts").mkdir(parents=True)
    shutil.copy(ROOT / "scripts/build-and-push.sh", project / "scripts")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=project, check=True)
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(FAKE_DOCKER)
    docker.chmod(0o755)
    return project


def run(project: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    tools = project.parent
    environ = {
        **os.environ,
        "PATH": f"{tools / 'bin'}:{os.environ['PATH']}",
        "DOCKER_LOG": str(tools / "docker.log"),
        "DIGEST": DIGEST,
        **environ,
    }
    command = ["scripts/build-and-push.sh", *arguments]
    return subprocess.run(
        command, cwd=project, env=environ, capture_output=True, text=True, check=False
    )


def asked(project: Path) -> list[str]:
    log = project.parent / "docker.log"
    return shlex.split(log.read_text()) if log.exists() else []


def options(words: list[str], name: str) -> list[str]:
    return [after for word, after in pairwise(words) if word == name]


def test_image_is_built_labelled_attested_and_pushed(project: Path) -> None:
    done = run(project, "you/vllm-sidecar", "0.1.0")
    assert done.returncode == 0, done.stderr
    words = asked(project)
    assert words[:2] == ["buildx", "build"]
    assert {"--push", "--pull", "--provenance=mode=max", "--sbom=true"} <= set(words)
    assert options(words, "--platform") == ["linux/amd64"]
    assert options(words, "--tag") == ["you/vllm-sidecar:0.1.0"]
    command = ["git", "rev-parse", "HEAD"]
    revision = subprocess.check_output(command, cwd=project, text=True).strip()
    assert options(words, "--build-arg") == [
        "SIDECAR_VERSION=0.1.0",
        f"SIDECAR_REVISION={revision}",
    ]
    (label,) = options(words, "--label")
    assert re.fullmatch(r"org\.opencontainers\.image\.created=\d{4}-\d\d-\d\dT[\d:]{8}Z", label)
    assert done.stdout.splitlines()[-1] == f"you/vllm-sidecar@{DIGEST}"


def test_build_arguments_are_those_of_the_dockerfile(project: Path) -> None:
    run(project, "localhost:5000/x", "0.1.0-cu129", "--vllm", "v0.32.0-cu129")
    known = re.findall(r"^ARG (\w+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    given = dict(word.split("=", 1) for word in options(asked(project), "--build-arg"))
    assert given.keys() == set(known) - {"VLLM_IMAGE"}, "which is for CPUs, and built by Compose"
    assert given["VLLM_VERSION"] == "v0.32.0-cu129"


def test_dry_run_prints_the_command_and_runs_nothing(project: Path) -> None:
    (project / "new").touch()
    done = run(project, "you/x", "0.1.0", "--dry-run")
    assert done.returncode == 0, done.stderr
    words = shlex.split(done.stdout)
    assert words[:3] == ["docker", "buildx", "build"]
    assert options(words, "--tag") == ["you/x:0.1.0"]
    assert options(words, "--build-arg")[-1].endswith("-dirty")
    assert not asked(project)


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help_says_how_it_is_called_and_what_it_needs(project: Path, word: str) -> None:
    done = run(project, word)
    assert (done.returncode, done.stderr) == (0, "")
    for said in ("build-and-push.sh YOU/vllm-sidecar 0.1.0", "--dry-run", "docker buildx create"):
        assert said in done.stdout
    assert "pipefail" not in done.stdout
    assert not asked(project)


def test_what_is_not_committed_is_not_pushed(project: Path) -> None:
    (project / "new").touch()
    done = run(project, "you/x", "0.1.0")
    assert done.returncode == 2
    assert "not committed" in done.stderr
    assert not asked(project)


def test_a_failed_build_names_no_digest(project: Path) -> None:
    done = run(project, "you/x", "0.1.0", DOCKER_EXIT="1")
    assert done.returncode == 1
    assert DIGEST not in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["you/x"], "usage"),
        (["you/x", "1", "2"], "usage"),
        (["you/x:1", "1"], "the tag is a word of its own"),
        (["You/X", "1"], "not the name of an image"),
        (["you/x", "latest"], "name a version"),
        (["you/x", "a b"], "not a tag"),
        (["you/x", "1", "--push"], "unknown option --push"),
        (["you/x", "1", "--vllm", "latest"], "--vllm wants a version"),
        (["you/x", "1", "--vllm"], "--vllm wants a version"),
    ],
)
def test_mistakes_are_told_before_anything_is_built(
    project: Path, arguments: list[str], said: str
) -> None:
    done = run(project, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert not asked(project)
