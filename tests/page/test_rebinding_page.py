"""DNS rebinding in real Chromium: a page of evil.example, whose name leads to the sidecar."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_engine import FakeEngine
from tests.page.browser import Chromium, Tab
from tests.tools import tool
from tests.wire.service import Sidecar

NAME = "evil.example"
# What a page can do to look like a program behind a proxy.
FORGED = {
    "accept-language": "*",
    "user-agent": "curl/8",
    "x-forwarded-for": "1.2.3.4",
    "x-forwarded-proto": "https",
}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    rules = f"--host-resolver-rules=MAP {NAME} 127.0.0.1"
    with Chromium(tool("chromium"), tmp_path_factory.mktemp("rebound"), rules) as browser:
        yield browser


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    with FakeEngine("--disable-uvicorn-access-log", "--served-model-name", "tiny") as engine:
        yield engine


def status(tab: Tab, path: str, **options: object) -> int:
    """Of an answer that the page may read."""
    given = json.dumps(options)
    code: int = tab.run(f"fetch('{path}', {given}).then(answer => answer.status)")
    return code


def opens_session(tab: Tab) -> bool:
    opened: bool = tab.run(
        "new Promise(tell => {"
        " const session = new WebSocket(`ws://${location.host}/v1/realtime`);"
        " session.onopen = () => tell(true); session.onerror = () => tell(false); })"
    )
    return opened


def test_a_page_whose_name_was_made_to_lead_here_reads_nothing(
    chromium: Chromium, engine: FakeEngine, tmp_path: Path
) -> None:
    engine.reset()
    with Sidecar(tmp_path, engine) as service, chromium.tab() as tab:
        service.wait_until_ready()
        tab.open(f"http://{NAME}:{service.port}/dashboard")
        assert "ALLOWED_HOSTS" in tab.words()
        for path in ("/info", "/v1/models", "/metrics", "/health", "/openapi.json"):
            assert status(tab, path) == 403
            assert status(tab, path, headers=FORGED, referrerPolicy="no-referrer") == 403
        assert status(tab, "/v1/completions", method="POST", body="{}", headers=FORGED) == 403
        assert not opens_session(tab)
        assert service.relayed() == []


@pytest.mark.parametrize(
    ("name", "settings"),
    [("127.0.0.1", {}), ("localhost", {}), (NAME, {"ALLOWED_HOSTS": NAME})],
    ids=["address", "localhost", "listed"],
)
def test_a_page_of_the_sidecars_own_reads_everything(
    chromium: Chromium, engine: FakeEngine, tmp_path: Path, name: str, settings: dict[str, str]
) -> None:
    with Sidecar(tmp_path, engine, **settings) as service, chromium.tab() as tab:
        service.wait_until_ready()
        tab.open(f"http://{name}:{service.port}/dashboard")
        for path in ("/info", "/v1/models", "/metrics", "/health"):
            assert status(tab, path) == 200
        assert opens_session(tab)
