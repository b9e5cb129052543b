"""The workflows for GitHub: what actionlint and zizmor, which `make check` runs, do not ask for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.release import ROOT
from tests.test_deployment import dockerfile

FOLDER = ROOT / ".github/workflows"
FILES = sorted(FOLDER.glob("*.yml"))
WORKFLOW = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def read(file: Path) -> dict[str, Any]:
    workflow = yaml.safe_load(file.read_text())
    assert isinstance(workflow, dict)
    return workflow


def jobs(file: Path) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = read(file)["jobs"]
    return found


def test_there_are_workflows_for_changes_days_tags_and_holes() -> None:
    assert [file.stem for file in FILES] == ["checks", "engine", "release", "security"]


@WORKFLOW
def test_actions_are_pinned_by_hash_with_their_version_beside_it(file: Path) -> None:
    for line in re.findall(r"uses: (.*)", file.read_text()):
        assert re.fullmatch(r"\$/\S+|[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line), line


def test_an_action_has_one_version_in_all_workflows() -> None:
    text = "".join(file.read_text() for file in FILES)
    used = set(re.findall(r"uses: ([\w-]+/[\w-]+)\S*@(\S+)", text))
    assert len(used) == len({name for name, _ in used}) > 10


@WORKFLOW
def test_a_workflow_may_nothing_and_each_job_says_what_it_may(file: Path) -> None:
    workflow = read(file)
    assert workflow["permissions"] == {}
    assert "group" in workflow["concurrency"]
    for name, job in jobs(file).items():
        assert isinstance(job["permissions"], dict), name
        assert "uses" in job or job["timeout-minutes"] <= 120, name


def test_only_a_release_may_write_and_only_what_it_makes() -> None:
    writing = {
        (file.stem, name): {what for what, how in job["permissions"].items() if how == "write"}
        for file in FILES
        for name, job in jobs(file).items()
    }
    attested = {"id-token", "attestations"}
    assert {job: rights for job, rights in writing.items() if rights} == {
        ("release", "package"): attested,
        ("release", "image"): {"packages", *attested},
        ("release", "pypi"): {"id-token"},
        ("release", "github"): {"contents"},
        ("security", "codeql"): {"security-events"},
        ("security", "zizmor"): {"security-events"},
    }


def test_make_has_the_targets_that_workflows_call() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = {
        target for file in FILES for target in re.findall(r"run: make (\w+)", file.read_text())
    }
    assert called >= {"check", "coverage", "unit", "floors"}
    assert called <= targets


def test_units_are_tested_with_each_python_that_the_package_names() -> None:
    versions = jobs(FOLDER / "checks.yml")["unit"]["strategy"]["matrix"]["python"]
    classifiers = (ROOT / "pyproject.toml").read_text()
    assert versions == re.findall(r'"Programming Language :: Python :: (3\.\d+)"', classifiers)


def test_images_are_built_on_the_vllm_that_the_dockerfile_names() -> None:
    (version,) = re.findall(r"VLLM_VERSION=(\S+)", " ".join(dockerfile("ARG")))
    bases = jobs(FOLDER / "release.yml")["image"]["strategy"]["matrix"]["include"]
    assert [(each["base"], each["suffix"]) for each in bases] == [
        (version, ""),
        (f"{version}-cu129", "-cu129"),
    ]


def test_the_hooks_of_a_commit_have_the_versions_of_the_checks() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    pinned = (ROOT / "requirements-dev.txt").read_text().splitlines()
    named = set(re.findall(r"[\w-]+==[\w.]+", hooks))
    assert len(named) == 5
    assert named <= set(pinned)
