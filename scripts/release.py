"""Does what a machine can do of a release: checks, builds and, if asked to, tags and pushes.

    .venv/bin/python scripts/release.py 0.1.0              checks, and builds into dist/
    .venv/bin/python scripts/release.py 0.1.0 --publish    then runs .ci/run, pushes the tag
    .venv/bin/python scripts/release.py 0.1.0 --notes      prints the section of CHANGELOG.md

For a tag that was pushed .github/workflows/release.yml makes the images and the releases.
docs/releasing.md has all steps. Exit codes: 0, 1 a step fails, 2 the command line is wrong.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
_VERSION = re.compile(r"\d+\.\d+\.\d+")
# Where a page or a template names the package by its version.
_NAMED = re.compile(r"vllm[_-]sidecar(?:-|==)(\d+\.\d+\.\d+)")
_SOURCE_FILES = {"LICENSE", "README.md", "pyproject.toml", "requirements.txt", "CHANGELOG.md"}
_TESTS = (".ci/run", "make image", "scripts/smoke.py, on a machine with a GPU")


class ReleaseError(Exception):
    """What keeps this version from being released, and what to do."""


def run(*command: str | Path, folder: Path = ROOT) -> str:
    """What a program prints.

    Raises:
        ReleaseError: it fails.
    """
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        name = " ".join(str(word) for word in command[:4])
        raise ReleaseError(f"{name} fails: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout


def tracked() -> list[str]:
    return run("git", "ls-files", "-z").rstrip("\0").split("\0")


def check_tree(tag: str) -> str:
    if changed := run("git", "status", "--porcelain").strip():
        raise ReleaseError(f"the tree is not clean; commit or remove:\n{changed}")
    head = run("git", "rev-parse", "HEAD").strip()
    if run("git", "tag", "--list", tag) and run("git", "rev-list", "-n1", tag).strip() != head:
        raise ReleaseError(
            f"{tag} is a tag of another commit; a tag is never moved: take the next version"
        )
    return f"clean, at {head[:12]}"


def check_version(version: str) -> str:
    """The version is written in proxy/__init__.py, and what names the package by one names this."""
    (written,) = re.findall(
        r'^__version__ = "(.*)"$', (ROOT / "proxy/__init__.py").read_text(), re.MULTILINE
    )
    if written != version:
        raise ReleaseError(f'proxy/__init__.py has {written}; set __version__ = "{version}"')
    for name in tracked():
        if name.endswith((".md", ".json", ".sh", ".py", ".yml")) and name != "CHANGELOG.md":
            others = set(_NAMED.findall((ROOT / name).read_text(encoding="utf-8"))) - {version}
            if others and not name.startswith("tests/"):
                raise ReleaseError(
                    f"{name} names the package of {', '.join(others)}; write {version}"
                )
    return "written in proxy/__init__.py alone"


def notes(version: str) -> str:
    """The version's section of the changelog, without its heading.

    Raises:
        ReleaseError: it is missing or empty, or Unreleased is not.
    """
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.*)\n((?:(?!## ).*\n?)*)", text, re.MULTILINE))
    if (left := sections.get("[Unreleased]")) is None or left.strip():
        raise ReleaseError(
            f"CHANGELOG.md: [Unreleased] must be there and empty; move it to [{version}]"
        )
    for heading, body in sections.items():
        dated = re.fullmatch(rf"\[{re.escape(version)}\] - (\d{{4}}-\d\d-\d\d)", heading)
        if dated is None or not body.strip():
            continue
        try:
            date.fromisoformat(dated[1])
        except ValueError:
            raise ReleaseError(f"CHANGELOG.md: {dated[1]} is no date") from None
        return str(body).strip() + "\n"
    raise ReleaseError(f"CHANGELOG.md: no section '## [{version}] - YYYY-MM-DD' with entries")


def build() -> tuple[Path, Path]:
    """The wheel and the source archive, of what git holds, in dist/."""
    shutil.rmtree(DIST, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "source.tar"
        run("git", "archive", "--output", archive, "HEAD")
        with tarfile.open(archive) as tar:
            tar.extractall(Path(folder) / "source", filter="data")
        run(
            sys.executable,
            "-m",
            "build",
            "--no-isolation",
            "--outdir",
            DIST,
            Path(folder) / "source",
        )
    (wheel,) = DIST.glob("*.whl")
    (source,) = DIST.glob("*.tar.gz")
    return wheel, source


def check_contents(version: str, wheel: Path, source: Path) -> str:
    run(sys.executable, "-m", "twine", "check", "--strict", wheel, source)
    info = f"vllm_sidecar-{version}.dist-info/"
    held = {name for name in zipfile.ZipFile(wheel).namelist() if not name.startswith(info)}
    ours = {name for name in tracked() if name.startswith("proxy/")}
    if held != ours:
        raise ReleaseError(f"{wheel.name} and git differ in {', '.join(sorted(held ^ ours))}")
    with tarfile.open(source) as tar:
        names = {name.partition("/")[2] for name in tar.getnames()}
    if lacking := (ours | _SOURCE_FILES) - names:
        raise ReleaseError(f"{source.name} lacks {', '.join(sorted(lacking))}")
    with tempfile.TemporaryDirectory() as folder:
        pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", folder)
        run(*pip, wheel)
        run(
            sys.executable,
            "-c",
            "from proxy.__main__ import main; main(['--help'])",
            folder=Path(folder),
        )
    return f"{len(held)} files in the wheel, {len(names)} names in the source archive"


def check_branch() -> None:
    if (branch := run("git", "branch", "--show-current").strip()) != "main":
        raise ReleaseError(f"a release is made from main, this is {branch or 'no branch'}")


def publish(version: str, tag: str) -> None:
    print("release: .ci/run, all tests and checks (half an hour)", flush=True)
    if subprocess.run([".ci/run"], cwd=ROOT, check=False).returncode:
        raise ReleaseError(".ci/run fails; nothing was tagged")
    if not run("git", "tag", "--list", tag):
        run("git", "tag", "--annotate", tag, "--message", f"vllm-sidecar {version}")
    run("git", "push", "origin", tag)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("version", help="X.Y.Z, as in proxy/__init__.py")
    parser.add_argument(
        "--publish", action="store_true", help="run all tests, tag and push the tag"
    )
    parser.add_argument("--notes", action="store_true", help="print the section of CHANGELOG.md")
    given = parser.parse_args(arguments)
    if not _VERSION.fullmatch(given.version):
        parser.error(f"{given.version!r} is no version; allowed is X.Y.Z, as 0.1.0")
    tag = f"v{given.version}"
    try:
        if given.notes:
            print(notes(given.version), end="")
            return 0
        if given.publish:
            check_branch()
        print(f"tree        {check_tree(tag)}")
        print(f"version     {given.version}, {check_version(given.version)}")
        print(f"changelog   {notes(given.version).count(chr(10))} lines")
        wheel, source = build()
        print(f"contents    {check_contents(given.version, wheel, source)}")
        print(f"built       dist/{wheel.name}, dist/{source.name}")
        if given.publish:
            publish(given.version, tag)
            print(f"pushed      {tag}; the workflow `release` goes on")
        else:
            print(f"tests       not run here: {'; '.join(_TESTS)}")
            command = f"make release VERSION={given.version} PUBLISH=1"
            print(f"dry run     nothing was tagged; {command} does it")
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
