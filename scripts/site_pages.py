"""README as pages of the site: a hook of mkdocs (mkdocs.yml).

Nothing is written twice: each section of README stands on one page of the site, which is made
when the site is built, and links between README and docs/ are turned into links between pages.
What is outside of docs/ is not on the site: of a link to it the words stay.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent

# Page -> its title, and the sections on it. What stands nowhere here is on the first page.
PAGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "index.md": ("", ("What it guarantees", "How it compares", "Limits", "Licence")),
    "quick-start.md": ("Quick start", ("Two commands", "Swapping models")),
    "runpod.md": ("", ("RunPod in five minutes",)),
    "environment.md": ("", ("Environment",)),
    "keys.md": ("", ("API keys",)),
    "behaviour.md": (
        "How it behaves",
        (
            "Media by URL",
            "When the engine dies",
            "When the engine hangs",
            "What happens at SIGTERM",
        ),
    ),
    "watching.md": ("Log, metrics, dashboards", ("The log", "Metrics", "Traces", "Watching it")),
    "working.md": ("", ("Working on it",)),
}
# Sections that stand in a page of docs/, in place of a comment with their name.
_IN_PLACE = {"Endpoints": "endpoints.md"}
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^(```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made from README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, content in pages(text).items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turns links of pages of docs/ that lead to README, and puts README's sections in place."""
    if page.file.src_uri in PAGES:
        return markdown
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found, anchors = sections(text), places(text)

    def section(match: re.Match[str]) -> str:
        return turned(found[match[1]], page.file.src_uri, anchors, from_readme=True)

    markdown = turned(markdown, page.file.src_uri, anchors, from_readme=False)
    return re.sub(r"^<!-- README: (.*) -->$", section, markdown, flags=re.MULTILINE)


def pages(readme: str) -> dict[str, str]:
    """Page -> its text."""
    found, anchors = sections(readme), places(readme)
    made = {}
    for name, (title, names) in PAGES.items():
        alone = len(names) == 1 and not title
        if name == "index.md":
            names += tuple(each for each in found if each and page_of(each) == name)
        present = (each for each in dict.fromkeys(names) if each in found)
        text = "\n".join(f"## {each}\n{found[each]}" for each in present)
        if name == "index.md":
            text = f"{found['']}\n{text}"
        elif alone:
            text = lifted(text)
        else:
            text = f"# {title}\n\n{text}"
        made[name] = turned(text, name, anchors, from_readme=True)
    return made


def sections(readme: str) -> dict[str, str]:
    """Heading -> the text below it; what stands before the first one is at the empty heading."""
    first, *others = re.split(r"^## ", readme, flags=re.MULTILINE)
    parts = (other.partition("\n") for other in others)
    return {"": first} | {heading: text for heading, _, text in parts}


def page_of(heading: str) -> str:
    if heading in _IN_PLACE:
        return _IN_PLACE[heading]
    return next((name for name, (_, names) in PAGES.items() if heading in names), "index.md")


def places(readme: str) -> dict[str, str]:
    """Anchor -> the page that has it."""
    found = {}
    for heading, text in sections(readme).items():
        below = re.findall(r"^###+ (.*)$", _FENCE.sub("", text), re.MULTILINE)
        for each in (heading, *below):
            found[slug(each)] = page_of(heading)
    return found


def slug(heading: str) -> str:
    return re.sub(r"[^\w -]", "", heading.lower()).strip().replace(" ", "-")


def lifted(text: str) -> str:
    """Each heading one level up."""
    parts = _FENCE.split(text)
    return "".join(
        part if part.startswith("```") else re.sub(r"^#(#+ )", r"\1", part, flags=re.MULTILINE)
        for part in parts
    )


def turned(text: str, page: str, anchors: dict[str, str], *, from_readme: bool) -> str:
    """The text with links that hold on the site; code is left alone."""

    def turn(match: re.Match[str]) -> str:
        picture, words, target = match.groups()
        target = _target(target, anchors) if from_readme else _of_docs(target, anchors)
        if target is None:
            return words if words.startswith("`") else f"`{words}`"
        target = target.removeprefix(page) if target.startswith(f"{page}#") else target
        return f"{picture}[{words}]({target})"

    parts = _FENCE.split(text)
    return "".join(part if part.startswith("```") else _LINK.sub(turn, part) for part in parts)


def _target(target: str, anchors: dict[str, str]) -> str | None:
    """Where a link of README leads on the site; None: to what is not on it."""
    if re.match(r"\w+:", target):
        return target
    if target.startswith("#"):
        return anchors.get(target[1:], "index.md") + target
    return target.removeprefix("docs/") if target.startswith("docs/") else None


def _of_docs(target: str, anchors: dict[str, str]) -> str | None:
    """The same for a link of a page of docs/."""
    if target == "../README.md":
        return "index.md"
    if target.startswith("../README.md#"):
        return _target(target.removeprefix("../README.md"), anchors)
    return None if target.startswith("../") else target
