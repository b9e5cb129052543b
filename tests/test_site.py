"""The documentation as a site, and what its pages say of routes and errors."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import pytest

from proxy.access.routes import _EXACT, _GENERATE, ALIASES, Route, RouteTable
from proxy.errors import RequestFailure
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


def test_every_section_of_readme_is_on_a_page(site: Path) -> None:
    readme = re.sub(r"^```.*?^```$", "", (ROOT / "README.md").read_text(), flags=re.M | re.S)
    whole = "".join(page.read_text(encoding="utf-8") for page in site.glob("*.html"))
    ids = set(re.findall(r'<h\d id="([^"]*)"', whole))
    hook = site_pages()
    titles = re.findall(r"^##+ (.*)$", readme, re.MULTILINE)
    # Its table stands under the page's own title.
    assert {hook.slug(title) for title in titles} - {"endpoints"} <= ids
    assert "GET /health/startup" in (site / "endpoints.html").read_text(encoding="utf-8")


def site_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_pages", ROOT / "scripts/site_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_links_between_readme_and_docs_are_links_between_pages() -> None:
    hook = site_pages()
    readme = "# T\n[b](#b-c) [d](docs/x.md#y) [`f`](f.py) ![p](docs/p.png)\n## B c\n[t](#b-c)\n"
    made = hook.pages(readme)["index.md"]
    assert "[b](#b-c) [d](x.md#y) `f` ![p](p.png)" in made
    anchors = {"api-keys": "keys.md"}
    turned = hook.turned(
        "[k](../README.md#api-keys) [m](../m.yml)", "a.md", anchors, from_readme=False
    )
    assert turned == "[k](keys.md#api-keys) `m`"
    fenced = "```python\nx[0](docs/a.md)\n```"
    assert hook.turned(fenced, "a.md", anchors, from_readme=True) == fenced


# Endpoints --------------------------------------------------------------------------------------

EXAMPLES = {"{id}": "resp_1", "{model}": "org/model"}


def relayed() -> Iterator[tuple[str, str]]:
    for paths, route, _ in rows(ENDPOINTS, "Relayed routes"):
        for path in re.findall(r"`(/\S*)`", paths):
            yield path, route.strip("`")


@pytest.mark.parametrize(("path", "route"), list(relayed()))
def test_a_relayed_route_of_the_page_is_what_the_allow_list_says(path: str, route: str) -> None:
    for name, example in EXAMPLES.items():
        path = path.replace(name, example)
    assert RouteTable().find(path.encode()) == route


def test_the_page_has_the_whole_allow_list() -> None:
    assert {path.encode() for path, _ in relayed() if "{" not in path} == {
        *(*_EXACT, *_GENERATE, *ALIASES)
    }
    named = {route.strip("`") for _, route, _ in rows(ENDPOINTS, "Relayed routes")}
    assert named == set(Route) - {Route.UNKNOWN}


async def test_the_page_has_all_pages_of_the_sidecar_and_says_which_need_a_key() -> None:
    open_paths: set[str] = set()
    closed_paths: set[str] = set()
    for paths, key, _ in rows(ENDPOINTS, "The sidecar's own"):
        (open_paths if key.startswith("no") else closed_paths).update(
            re.findall(r"`(/\S*)`", paths)
        )
    async with house() as there:
        own = there.sidecar.dispatch._built_in
        files = {path for path in own.paths if path.startswith("/dashboard/")}
        assert open_paths == own.open_paths - files
        assert closed_paths == own.paths - own.open_paths


# Troubleshooting --------------------------------------------------------------------------------


def kinds(of: type[RequestFailure] = RequestFailure) -> Iterator[type[RequestFailure]]:
    for kind in of.__subclasses__():
        yield kind
        yield from kinds(kind)


def test_every_error_has_its_row_with_status_and_source() -> None:
    told = {
        (int(status), code.strip("`"), source)
        for status, code, source, *_ in rows(TROUBLES, "A request gets an error")
    }
    ours = {kind for kind in kinds() if kind.__module__ == RequestFailure.__module__}
    assert told == {(kind.status, kind.code, str(kind.source)) for kind in ours}


def test_variables_that_troubleshooting_names_are_known() -> None:
    from proxy.settings import variables
    from proxy.vllm.flags import flag_name, known_flags

    ours = {name for names in variables().values() for name in names}
    vllms_own = {"VLLM_CACHE_ROOT", "VLLM_ENGINE_READY_TIMEOUT_S"}
    named = set(re.findall(r"`([A-Z][A-Z_]+)`", TROUBLES)) - vllms_own
    assert {name for name in named - ours if flag_name(name) not in known_flags()} == set()
