"""The documentation as a site, and what its pages say of routes and errors."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from proxy.errors import RequestFailure
from scripts import check_links
from scripts.site_links import on_page_markdown
from tests.proxy.house import house

ROOT = Path(__file__).resolve().parent.parent
ENDPOINTS = (ROOT / "docs/endpoints.md").read_text(encoding="utf-8")
TROUBLES = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    below = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in below.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines[2:]]


# The site ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built with --strict: a link that leads nowhere fails it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environ = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder


class Loaded(HTMLParser):
    """What a browser fetches with a page, and the links in it."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ("script", "img", "iframe", "source", "video"):
            self.addresses.append(given.get("src") or "")
        if tag == "link" and "canonical" not in (given.get("rel") or ""):
            self.addresses.append(given.get("href") or "")
        if tag == "a":
            self.links.append(given.get("href") or "")


def loaded(page: Path) -> Loaded:
    parser = Loaded()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = sorted(site.glob("*.html"))
    assert len(pages) > 20
    for page in pages:
        assert [each for each in loaded(page).addresses if re.match(r"(\w+:)?//", each)] == []
        assert "fonts.g" not in page.read_text(encoding="utf-8")


def test_no_page_links_to_what_is_not_on_the_site(site: Path) -> None:
    for page in site.glob("*.html"):
        for link in loaded(page).links:
            path = link.partition("#")[0]
            if path and not re.match(r"\w+:", path) and page.name != "404.html":
                assert (site / path).exists(), f"{page.name}: {link}"


def test_every_page_is_two_clicks_from_the_first(site: Path) -> None:
    """All are in the navigation, which stands on each page."""
    named = set(re.findall(r"([\w-]+)\.md", (ROOT / "mkdocs.yml").read_text().split("\nnav:")[1]))
    assert named == {page.stem for page in (ROOT / "docs").glob("*.md")}
    links = {link.partition("#")[0] for link in loaded(site / "index.html").links}
    assert {f"{name}.html" for name in named - {"index"}} <= links


def test_each_page_opens_with_what_one_can_do_after_it() -> None:
    """Not the map, and not the page that is written by a program."""
    pages = {page for page in (ROOT / "docs").glob("*.md") if page.stem not in ("index", "causes")}
    openings = {page.stem: page.read_text().partition("\n\n")[2] for page in pages}
    assert [
        name for name, text in openings.items() if not text.startswith("After this page ")
    ] == []


def test_a_link_to_a_file_of_the_repository_leaves_its_words() -> None:
    page = "[a](b.md) [the `x`](#x) [`f.py`](../proxy/f.py) [g](../g.md#h)"
    assert on_page_markdown(page) == "[a](b.md) [the `x`](#x) `f.py` `g`"


# Links ------------------------------------------------------------------------------------------


def test_links_that_lead_nowhere_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/a.md").write_text('# A `b`: c\n<a id="d"></a>\n```\n[x](none)\n```\n')
    (tmp_path / "README.md").write_text(
        "[1](docs/a.md#a-b-c) [2](docs/a.md#d) [3](https://x.y/z) [4](docs/b.md) [5](docs/a.md#e)"
        " [6](../outside.md)\n"
    )
    assert check_links.main(tmp_path) == 1
    assert capsys.readouterr().err.splitlines() == [
        "README.md: docs/b.md: no such file",
        "README.md: docs/a.md#e: no such heading",
        "README.md: ../outside.md: no such file",
    ]


# Endpoints --------------------------------------------------------------------------------------


async def test_the_page_has_all_pages_of_the_sidecar_and_says_which_need_a_key() -> None:
    open_paths: set[str] = set()
    closed_paths: set[str] = set()
    for paths, key, _ in rows(ENDPOINTS, "The sidecar's own"):
        (open_paths if key.startswith("no") else closed_paths).update(
            re.findall(r"`(/\S*)`", paths)
        )
    orders = {path.strip("`") for path, _ in rows(ENDPOINTS, "Orders for models")}
    async with house() as there:
        own = there.sidecar.dispatch._built_in
        files = {path for path in own.paths if path.startswith("/dashboard/")}
        assert open_paths == own.open_paths - files
        assert closed_paths | orders == own.paths - own.open_paths


@pytest.mark.parametrize(
    "path",
    sorted(
        {
            path
            for paths, *_ in rows(ENDPOINTS, "The sidecar's own")
            for path in re.findall(r"`(/\S*)`", paths)
        }
    ),
)
async def test_a_page_of_the_sidecar_is_answered(path: str) -> None:
    async with house() as there:
        response = await there.get(path.replace("{model}", "default"))
        assert response.status_code in (200, 204, 503)
        assert response.headers.get("x-proxy-error") in (None, "upstream engine_unavailable")


# Troubleshooting --------------------------------------------------------------------------------


def kinds(of: type[RequestFailure] = RequestFailure) -> Iterator[type[RequestFailure]]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_every_error_has_its_row_with_status_and_source() -> None:
    listed = {
        (int(status), code.strip("`"), source)
        for status, code, source, *_ in rows(TROUBLES, "A request gets an error")
    }
    ours = {kind for kind in kinds() if kind.__module__ == RequestFailure.__module__}
    assert listed == {(kind.status, kind.code, str(kind.source)) for kind in ours}


def test_variables_that_troubleshooting_names_are_known() -> None:
    from proxy.settings import variables
    from proxy.vllm.flags import flag_name, known_flags

    ours = {name for names in variables().values() for name in names}
    vllms_own = {"VLLM_CACHE_ROOT", "VLLM_ENGINE_READY_TIMEOUT_S"}
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", TROUBLES)) - vllms_own
    assert {name for name in named - ours if flag_name(name) not in known_flags()} == set()
