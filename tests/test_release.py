"""`make release` in a repository of its own, with an origin of its own."""

from __future__ import annotations

import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from proxy import __version__
from scripts.release import ROOT

DATED = f"# Changelog\n\n## [Unreleased]\n\n## [{__version__}] - 2026-11-28\n\n### Added\n\n- It.\n"
FILES = (
    "proxy",
    "scripts/release.py",
    "pyproject.toml",
    "requirements*.txt",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    ".gitignore",
)


class Repository:
    """A clone on `main`, whose `.ci/run` exits with 0."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "clone"
        self.origin = folder / "origin.git"
        subprocess.run(["git", "init", "--quiet", "--bare", self.origin], check=True)
        subprocess.run(["git", "clone", "--quiet", self.origin, self.root], check=True)
        listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", *FILES]
        names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True)
        for name in names.stdout.splitlines():
            if (ROOT / name).is_file():
                self.write(name, (ROOT / name).read_text())
        self.write("CHANGELOG.md", DATED)
        self.write(".ci/run", "#!/bin/sh\necho all tests\n")
        (self.root / ".ci/run").chmod(0o755)
        self.git("checkout", "--quiet", "-B", "main")
        self.commit()

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def git(self, *words: str) -> str:
        name = ("-c", "user.name=t", "-c", "user.email=t@t.t")
        command = ["git", *name, *words]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=True)
        return done.stdout

    def commit(self) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "a change")

    def release(self, *words: str) -> subprocess.CompletedProcess[str]:
        environ = {"GIT_CONFIG_COUNT": "2", "PATH": "/usr/bin:/bin"}
        for number, key in enumerate(("user.name", "user.email")):
            environ |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": "t@t.t"}
        return subprocess.run(
            [sys.executable, "scripts/release.py", *words],
            cwd=self.root,
            env=environ,
            capture_output=True,
            text=True,
            check=False,
        )

    def tags(self) -> list[str]:
        listed = ["git", "-C", str(self.origin), "tag", "--list"]
        return subprocess.run(listed, capture_output=True, text=True, check=True).stdout.split()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path)


def test_without_being_asked_to_publish_it_builds_and_tags_nothing(repository: Repository) -> None:
    done = repository.release(__version__)
    assert (done.returncode, done.stderr) == (0, "")
    assert "nothing was tagged" in done.stdout
    assert ".ci/run" in done.stdout, "the tests are named"
    assert repository.git("status", "--porcelain") == ""
    assert repository.git("tag", "--list") == ""
    (wheel,) = (repository.root / "dist").glob("*.whl")
    assert wheel.name == f"vllm_sidecar-{__version__}-py3-none-any.whl"
    with tarfile.open(repository.root / f"dist/vllm_sidecar-{__version__}.tar.gz") as source:
        assert not [name for name in source.getnames() if "/tests/" in name]


def test_published_is_the_tag_once_all_tests_have_passed(repository: Repository) -> None:
    repository.write(".ci/run", "#!/bin/sh\nexit 1\n")
    repository.commit()
    done = repository.release(__version__, "--publish")
    assert (done.returncode, repository.tags()) == (1, [])
    assert done.stderr == "release: .ci/run fails; nothing was tagged\n"
    repository.write(".ci/run", "#!/bin/sh\necho all tests\n")
    repository.commit()
    done = repository.release(__version__, "--publish")
    assert done.returncode == 0, done.stderr
    assert "all tests\n" in done.stdout
    assert repository.tags() == [f"v{__version__}"]
    assert repository.git("cat-file", "-t", f"v{__version__}") == "tag\n"


def refused(repository: Repository, *words: str) -> str:
    done = repository.release(*(words or (__version__,)))
    assert done.returncode == 1, done.stdout
    assert done.stderr.startswith("release: ")
    assert not (repository.root / "dist").exists()
    assert repository.tags() == []
    return done.stderr.removeprefix("release: ")


def test_a_tree_with_changes_is_not_released(repository: Repository) -> None:
    repository.write("new.txt", "")
    assert refused(repository) == "the tree is not clean; commit or remove:\n?? new.txt\n"


def test_a_version_that_the_code_does_not_have_is_not_released(repository: Repository) -> None:
    text = refused(repository, "9.8.7")
    assert text == f'proxy/__init__.py has {__version__}; set __version__ = "9.8.7"\n'


def test_a_page_that_names_another_version_is_named(repository: Repository) -> None:
    repository.write("docs/a.md", "`pip install vllm-sidecar==0.0.9`\n")
    repository.commit()
    assert refused(repository) == f"docs/a.md names the package of 0.0.9; write {__version__}\n"


@pytest.mark.parametrize(
    ("changelog", "fault"),
    [
        (
            DATED.replace("[Unreleased]\n", "[Unreleased]\n\n- More.\n"),
            "[Unreleased] must be there",
        ),
        (DATED.replace("## [Unreleased]\n", ""), "[Unreleased] must be there and empty"),
        (DATED.replace(" - 2026-11-28", ""), "no section"),
        (DATED.replace("- It.\n", "").replace("### Added\n", ""), "no section"),
        (DATED.replace("2026-11-28", "2026-11-31"), "2026-11-31 is no date"),
    ],
    ids=["changes left", "no heading", "no date", "no entries", "no such day"],
)
def test_a_changelog_without_the_version_is_not_released(
    repository: Repository, changelog: str, fault: str
) -> None:
    repository.write("CHANGELOG.md", changelog)
    repository.commit()
    assert fault in refused(repository)


def test_a_tag_is_never_moved(repository: Repository) -> None:
    repository.git("tag", f"v{__version__}")
    repository.write("README.md", "# Other\n")
    repository.commit()
    assert f"v{__version__} is a tag of another commit" in refused(repository)


def test_a_branch_is_not_published(repository: Repository) -> None:
    repository.git("checkout", "--quiet", "-b", "mine")
    done = repository.release(__version__, "--publish")
    assert (done.returncode, repository.tags()) == (1, [])
    assert done.stderr == "release: a release is made from main, this is mine\n"


@pytest.mark.parametrize("words", [[], ["v0.1.0"], ["0.1"]])
def test_what_is_no_version_is_told_with_what_is_allowed(
    repository: Repository, words: list[str]
) -> None:
    done = repository.release(*words)
    assert done.returncode == 2
    assert "required: version" in done.stderr or "allowed is X.Y.Z" in done.stderr


def test_the_notes_are_the_section_of_the_version(repository: Repository) -> None:
    done = repository.release(__version__, "--notes")
    assert (done.returncode, done.stdout) == (0, "### Added\n\n- It.\n")
