"""Checks that every link between files of the repository leads to a file, and to a heading in it.

    .venv/bin/python scripts/check_links.py

Looks at README, CONTRIBUTING and the like, docs/ and the READMEs below deploy/. Addresses on the
web are left alone. Exits with 1 where a link leads nowhere, and says which.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

_FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
_ID = re.compile(r'<a id="([^"]+)">')


def pages(root: Path) -> list[Path]:
    return sorted([*root.glob("*.md"), *root.glob("docs/*.md"), *root.glob("deploy/**/*.md")])


@cache
def prose(page: Path) -> str:
    """The page without its blocks of code."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


@cache
def anchors(page: Path) -> frozenset[str]:
    """What may stand behind the # of a link to the page."""
    return frozenset({*map(slug, _HEADING.findall(prose(page))), *_ID.findall(prose(page))})


def slug(heading: str) -> str:
    """A heading's anchor, as GitHub and mkdocs both make it."""
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
    return re.sub(r"[^\w -]", "", words).strip().replace(" ", "-")


def broken(page: Path, root: Path) -> Iterator[str]:
    """The links of a page that lead nowhere."""
    for link in _LINK.findall(prose(page)):
        path, _, anchor = link.partition("#")
        if re.match(r"[\w+.-]+:", link):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(root) or not target.exists():
            yield f"{link}: no such file"
        elif anchor and anchor not in anchors(target):
            yield f"{link}: no such heading"


def main(root: Path = ROOT) -> int:
    faults = [
        f"{page.relative_to(root)}: {fault}" for page in pages(root) for fault in broken(page, root)
    ]
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
