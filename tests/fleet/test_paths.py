"""What vllm-router makes of each path, as docs/scaling.md says it: a new version may change it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.engine.service import FORKED, Line, Service, wait_until
from tests.fake_engine import FakeEngine
from tests.fleet.router import ROOT, Router
from tests.measure import measured
from tests.patience import PATIENCE

KEY = "sk-0123456789abcdef"
Body = dict[str, Any]
_CHAT: Body = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
_TEXT: Body = {"model": "tiny", "prompt": "Hello"}
_INPUT: Body = {"model": "tiny", "input": "Hello"}

# With the client's headers, its key among them.
WHOLE = {
    "/v1/chat/completions": _CHAT,
    "/v1/completions": _TEXT,
    "/v1/embeddings": _INPUT,
}
# Without any of them.
BARE = {
    "/v1/messages": _CHAT | {"max_tokens": 5},
    "/v1/messages/count_tokens": _CHAT,
    "/v1/responses": _INPUT,
    "/chat/completions": _CHAT,
    "/completions": _TEXT,
    "/tokenize": _TEXT,
    "/detokenize": {"model": "tiny", "tokens": [1]},
    "/generate_stream": {"prompt": "Hello"},
}
# Its body is another one when it arrives.
REWRITTEN = "/generate"
UPLOAD = "/v1/audio/transcriptions"
TEXT = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")


@dataclass
class Both:
    sidecar: Service
    router: Router

    def ask(self, client: httpx.Client, path: str, **body: Any) -> tuple[httpx.Response, str]:
        """The answer, and the request's id."""
        name = uuid4().hex
        headers = {"authorization": f"Bearer {KEY}", "x-request-id": name}
        return client.post(path, headers=headers, **body), name

    def line(self, name: str) -> Line:
        def found() -> list[Line]:
            lines = self.sidecar.lines("proxy.access")
            return [line for line in lines if line["request_id"] == name]

        wait_until(lambda: bool(found()), PATIENCE, "the request's line")
        return found()[0]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """A sidecar with a key, and the router in front of it."""
    folder = tmp_path_factory.mktemp("paths")
    with FakeEngine("--served-model-name", "tiny") as engine:
        given = {"UPSTREAM_URL": engine.url, "API_KEYS": f"alice:{KEY}", **measured()}
        with Service(folder, FORKED, **given) as sidecar:
            sidecar.wait_for("ready", PATIENCE)
            with Router(folder, [sidecar.url]) as router:
                router.wait_for({sidecar.url: True})
                yield Both(sidecar, router)


@pytest.mark.parametrize("path", WHOLE)
def test_key_and_request_id_come_through(both: Both, path: str) -> None:
    answer, name = both.ask(both.router.client, path, json=WHOLE[path])
    assert answer.status_code == 200, answer.text
    assert both.line(name)["key"] == "alice"


@pytest.mark.parametrize("path", BARE)
def test_no_header_comes_through_elsewhere(both: Both, path: str) -> None:
    answer, _ = both.ask(both.router.client, path, json=BARE[path])
    assert answer.status_code == 401
    straight, name = both.ask(both.sidecar.client, path, json=BARE[path])
    assert straight.status_code == 200, straight.text
    assert both.line(name)["key"] == "alice"


def test_what_the_router_writes_anew_or_refuses_is_asked_of_the_sidecar(both: Both) -> None:
    for path, body in (
        (REWRITTEN, {"json": {"prompt": "Hello"}}),
        (UPLOAD, {"files": {"file": b"RIFF"}, "data": {"model": "tiny"}}),
    ):
        answer, _ = both.ask(both.router.client, path, **body)
        assert answer.status_code == 400, path
    assert both.ask(both.sidecar.client, REWRITTEN, json={"prompt": "Hello"})[0].status_code == 200


def test_scaling_says_so_of_each_path() -> None:
    section = TEXT.split("### What to know")[1]
    (whole,) = (line for line in section.split("\n- ") if line.startswith("**These paths come"))
    (bare,) = (line for line in section.split("\n- ") if line.startswith("**All others lose"))
    (never,) = (line for line in section.split("\n- ") if line.startswith("**Not by the router"))
    assert all(f"`{path}`" in whole for path in WHOLE)
    assert all(f"`{path}`" in bare for path in BARE)
    assert all(f"`{path}`" in never for path in (REWRITTEN, UPLOAD))
