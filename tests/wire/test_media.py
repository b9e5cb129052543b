"""Media URLs: what the engine gets in their place, and what none of them reaches."""

from __future__ import annotations

import json
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.attacks.urls import REFUSED, written
from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE
from tests.wire.client import CHAT, MESSAGES, RESPONSES, STREAM
from tests.wire.service import Sidecar, ending, until

PICTURE = bytes(range(256)) * 40
DATA_URL = "data:image/png;base64," + b64encode(PICTURE).decode()
Part = dict[str, Any]


def part(url: str, kind: str = "image_url") -> Part:
    return {"type": kind, kind: {"url": url}}


def message(*parts: Part) -> Part:
    return {"role": "user", "content": [{"type": "text", "text": "http://in.text/"}, *parts]}


def source(url: str) -> Part:
    return {"type": "image", "source": {"type": "url", "url": url}}


def anthropic(url: str) -> Part:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [source(url)]}
    return {"max_tokens": 8, "messages": [{"role": "user", "content": [result]}]}


def responses(url: str) -> Part:
    return {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]}


def output(url: str) -> Part:
    parts = [{"type": "input_image", "image_url": url}]
    return {"input": [{"type": "function_call_output", "call_id": "c", "output": parts}]}


# Where a URL may stand: (path, body with a URL, what the URL is called).
SHAPES: dict[str, tuple[str, Any, str]] = {
    "chat image": (
        CHAT,
        lambda u: {"messages": [message(part(u))]},
        "messages[0].content[1].image_url.url",
    ),
    "chat video": (
        CHAT,
        lambda u: {"messages": [message(part(u, "video_url"))]},
        "messages[0].content[1].video_url.url",
    ),
    "chat audio": (
        CHAT,
        lambda u: {"messages": [message(part(u, "audio_url"))]},
        "messages[0].content[1].audio_url.url",
    ),
    "chat, short form": (
        CHAT,
        lambda u: {"messages": [message({"image_url": u})]},
        "messages[0].content[1].image_url",
    ),
    "chat, type of another part": (
        CHAT,
        lambda u: {"messages": [message({"type": "text", "uuid": "x", "video_url": u})]},
        "messages[0].content[1].video_url",
    ),
    "messages": (MESSAGES, anthropic, "messages[0].content[0].content[0].source.url"),
    "count_tokens": (
        "/v1/messages/count_tokens",
        anthropic,
        "messages[0].content[0].content[0].source.url",
    ),
    "responses": (RESPONSES, responses, "input[0].content[0].image_url"),
    "responses, of a tool": (RESPONSES, output, "input[0].output[0].image_url"),
    "tokenize": (
        "/tokenize",
        lambda u: {"messages": [message(part(u))]},
        "messages[0].content[1].image_url.url",
    ),
    "embeddings": (
        "/v1/embeddings",
        lambda u: {"input": [[message(part(u))]]},
        "input[0][0].content[1].image_url.url",
    ),
    "pooling": (
        "/pooling",
        lambda u: {"messages": [message(part(u))]},
        "messages[0].content[1].image_url.url",
    ),
    "score": (
        "/score",
        lambda u: {"queries": "x", "documents": [{"content": [part(u)]}]},
        "documents[0].content[0].image_url.url",
    ),
    "rerank": (
        "/v1/rerank",
        lambda u: {"query": {"content": [part(u)]}, "documents": ["x"]},
        "query.content[0].image_url.url",
    ),
}


class Canary:
    """Listens on 127.0.0.1 and ::1, at one port; counts who comes."""

    def __init__(self) -> None:
        self.visits = 0
        four = socket.create_server(("127.0.0.1", 0))
        self.port: int = four.getsockname()[1]
        six = socket.create_server(("::1", self.port), family=socket.AF_INET6)
        self._sockets = [four, six]
        for listening in self._sockets:
            threading.Thread(target=self._watch, args=(listening,), daemon=True).start()

    def _watch(self, listening: socket.socket) -> None:
        while True:
            try:
                visitor, _ = listening.accept()
            except OSError:
                return
            self.visits += 1
            visitor.close()

    def close(self) -> None:
        for listening in self._sockets:
            listening.close()


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    bird = Canary()
    yield bird
    bird.close()


class Web(ThreadingHTTPServer):
    """Pictures, and servers that are not nice."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Visit)
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.hang_ups = 0
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class _Visit(BaseHTTPRequestHandler):
    server: Web

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append((self.path, headers))
        if self.path == "/hang":
            self.connection.recv(1)
            self.server.hang_ups += 1
        elif self.path == "/away":
            self._answer(302, location=f"http://127.0.0.1:{self.server.server_port}/x.png")
        elif self.path == "/none":
            self._answer(404)
        elif self.path == "/big":
            self._answer(200, b"x" * 2_000_000)
        elif self.path.startswith("/12-mb"):
            with suppress(ConnectionError):  # it need not be read
                self._answer(200, b"x" * 12_000_000)
        else:
            self._answer(200, PICTURE, content_type="image/png")

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if self.path == "/cookies":
            for number in range(20):
                self.send_header("set-cookie", f"c{number}={'x' * 4000}; path=/")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def web() -> Iterator[Web]:
    with Web() as server:
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def private(
    shared_engine: FakeEngine, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sidecar]:
    """A sidecar that may fetch from this machine."""
    options = {
        "ALLOW_PRIVATE_MEDIA": "true",
        "MEDIA_FETCH_MAX_MB": "1",
        "MEDIA_FETCH_TIMEOUT": "2",
    }
    with Sidecar(tmp_path_factory.mktemp("private"), shared_engine, **options) as service:
        service.wait_until_ready()
        yield service


# What none of them reaches --------------------------------------------------------------------


def test_no_attack_reaches_its_aim_or_the_engine(service: Sidecar, canary: Canary) -> None:
    answers = {}
    for url in REFUSED:
        body = {"messages": [message(part(written(url, canary.port)))]}
        answers[url] = answer = service.ask(CHAT, body)
        error = answer.json()["error"]
        assert (answer.status, error["code"]) == (400, "media_url_refused"), url
        assert error["param"] == "messages[0].content[1].image_url.url", url
        assert answer.header("x-proxy-error") == "client media_url_refused", url
        assert canary.visits == 0, url
    refused = (400, "rejected", "client", "media_url_refused")
    assert {ending(service.record(answer)) for answer in answers.values()} == {refused}
    assert service.relayed() == []


@pytest.mark.parametrize("shape", SHAPES)
def test_wherever_a_url_stands_it_is_refused_in_the_shape_of_its_route(
    service: Sidecar, canary: Canary, shape: str
) -> None:
    path, body, param = SHAPES[shape]
    answer = service.ask(path, body(f"http://127.0.0.1:{canary.port}/"))
    assert answer.status == 400
    error = answer.json()["error"]
    assert error["message"].startswith(f"{param} does not lead to a public address;")
    assert "ALLOW_PRIVATE_MEDIA=true" in error["message"]
    if path.startswith(MESSAGES):
        assert answer.json()["type"] == "error"
        assert error["type"] == "invalid_request_error"
    else:
        assert error["param"] == param
    assert service.seen(answer) == []
    assert canary.visits == 0


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "utf-32-le"])
def test_no_encoding_of_a_body_hides_a_url(service: Sidecar, canary: Canary, encoding: str) -> None:
    text = json.dumps({"messages": [message(part(f"http://127.0.0.1:{canary.port}/"))]})
    answer = service.ask(CHAT, text.encode(encoding))
    assert answer.json()["error"]["code"] == "media_url_refused"
    assert service.seen(answer) == []
    assert canary.visits == 0


def test_a_log_line_of_a_refused_url_does_not_hold_it(service: Sidecar) -> None:
    url = "http://10.0.0.1/private-path?token=very-secret"
    answer = service.ask(CHAT, {"messages": [message(part(url))]})
    assert answer.status == 400
    assert "secret" not in json.dumps(service.record(answer))
    assert not [line for line in service.other_lines() if "very-secret" in line]


def test_the_list_of_domains_holds_for_redirects_too(
    shared_engine: FakeEngine, tmp_path: Path, web: Web
) -> None:
    options = {
        "ALLOWED_MEDIA_DOMAINS": "localhost",
        "ALLOW_PRIVATE_MEDIA": "true",
        "MEDIA_FETCH": "proxy",
    }
    with Sidecar(tmp_path, shared_engine, **options) as service:
        service.wait_until_ready()
        near = web.url("/x.png").replace("127.0.0.1", "localhost")
        assert service.ask(CHAT, {"messages": [message(part(near))]}).status == 200
        for url in (web.url("/x.png"), near.replace("/x.png", "/away")):
            answer = service.ask(CHAT, {"messages": [message(part(url))]})
            assert "ALLOWED_MEDIA_DOMAINS" in answer.json()["error"]["message"]
            assert service.seen(answer) == []
        assert [path for path, _ in web.asked] == ["/x.png", "/away"]
        service.process.kill()


# What the engine gets -------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_wherever_a_url_stands_the_engine_gets_the_file_in_its_place(
    private: Sidecar, web: Web, shape: str
) -> None:
    path, body, _ = SHAPES[shape]
    url = web.url("/x.png?token=very-secret")
    written_as = json.dumps(body(url))
    answer = private.ask(path, written_as.encode())
    (received,) = private.seen(answer)
    meant = written_as.replace(url, DATA_URL).encode()
    assert received.body_sha256 == sha256(meant).hexdigest()
    assert received.header("content-length") == [str(len(meant))]
    (visit,) = web.asked
    assert visit[1]["host"] == f"127.0.0.1:{web.server_port}"
    assert not {"authorization", "cookie"} & set(visit[1])
    line = private.record(answer)
    assert line["media_bytes"] == len(PICTURE)
    assert 0 < line["media_fetch_ms"] <= line["duration_ms"]
    assert line["bytes_in"] == len(written_as)
    assert line["overhead_ms"] < line["duration_ms"]
    assert "very-secret" not in json.dumps(line)


def test_a_stream_gets_its_usage_option_as_well(private: Sidecar, web: Web) -> None:
    body = {**STREAM, "messages": [message(part(web.url("/x.png")))], "seed": 1}
    answer = private.ask(CHAT, json.dumps(body).encode())
    assert answer.data()[-1] == "[DONE]"
    assert not [each for each in answer.data()[:-1] if each.get("usage")]
    (received,) = private.seen(answer)
    said = json.dumps(body).replace(web.url("/x.png"), DATA_URL)
    meant = said[:-1] + ',"stream_options":{"include_usage":true}}'
    assert received.body_sha256 == sha256(meant.encode()).hexdigest()
    assert private.record(answer)["completion_tokens"] == 8


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/none", "got status 404 from its server"),
        ("/big", "is larger than 1 MiB (MEDIA_FETCH_MAX_MB)"),
        ("/hang", "was not there within 2 s (MEDIA_FETCH_TIMEOUT)"),
    ],
)
def test_what_cannot_be_fetched_is_a_400_that_says_why(
    private: Sidecar, web: Web, path: str, said: str
) -> None:
    answer = private.ask(CHAT, {"messages": [message(part(web.url(path)))]})
    error = answer.json()["error"]
    assert (answer.status, error["code"]) == (400, "media_fetch_failed")
    assert error["message"] == f"messages[0].content[1].image_url.url {said}."
    line = private.record(answer)
    assert ending(line) == (400, "client_error", "client", "media_fetch_failed")
    assert line["media_fetch_ms"] > 0
    assert private.seen(answer) == []


def test_cookies_of_a_host_reach_no_other_fetch(private: Sidecar, web: Web) -> None:
    """Two hosts at one address; and 80 kB of cookies are more than a server takes in a request."""
    other = f"http://localhost:{web.server_port}/x.png"
    for url in (web.url("/cookies"), web.url("/x.png"), other):
        answer = private.ask(CHAT, {"messages": [message(part(url))]})
        assert answer.status == 200, answer.json()
    assert [path for path, _ in web.asked] == ["/cookies", "/x.png", "/x.png"]
    assert not [headers for _, headers in web.asked if "cookie" in headers]
    assert web.asked[-1][1]["host"] == f"localhost:{web.server_port}"


def test_media_of_all_requests_together_take_no_more_memory_than_their_budget(
    shared_engine: FakeEngine, tmp_path: Path, web: Web
) -> None:
    """Six requests of 16 MB thrice and a file that does not come: 288 MB, where 100 are allowed."""
    options = {
        "ALLOW_PRIVATE_MEDIA": "true",
        "MEDIA_FETCH_TIMEOUT": str(PATIENCE),
        "MAX_BODY_MB": "50",  # twice that is the default of MEDIA_MEMORY_MB
    }
    parts = [part(web.url(f"/12-mb?{number}")) for number in range(3)]
    with Sidecar(tmp_path, shared_engine, **options) as service, ExitStack() as stack:
        service.wait_until_ready()
        assert service.ask(CHAT, {"messages": [message(part(web.url("/x.png")))]}).status == 200
        before = service.memory_mib("VmHWM")
        clients = [stack.enter_context(service.connect()) for _ in range(6)]
        for client in clients:
            client.ask(CHAT, {"messages": [message(*parts, part(web.url("/hang")))]})
        until(lambda: service.memory_mib("VmHWM") - before > 85, "what two of them hold")
        time.sleep(0.5)  # the others wait
        assert service.memory_mib("VmHWM") - before < 160
        for client in clients:
            client.close()
        # All is given back: a request that needs half of it is served.
        body = {"messages": [message(*parts)]}
        until(lambda: service.ask(CHAT, body).status == 200, "an answer", PATIENCE)
        service.process.kill()


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A sidecar that holds the media of one request at a time; nobody waits for its engine."""
    options = {
        "ALLOW_PRIVATE_MEDIA": "true",
        "MAX_BODY_MB": "20",
        "MEDIA_MEMORY_MB": "20",
        "MEDIA_FETCH_TIMEOUT": str(PATIENCE),
    }
    folder = tmp_path_factory.mktemp("tight")
    with FakeEngine() as engine, Sidecar(folder, engine, **options) as service:
        service.wait_until_ready()
        yield service
        service.process.kill()


def picture_comes(service: Sidecar, web: Web) -> None:
    """It would wait in vain if somebody else still held the memory."""
    assert service.ask(CHAT, {"messages": [message(part(web.url("/x.png")))]}).status == 200


def test_media_that_the_engine_has_keep_no_other_request_waiting(tight: Sidecar, web: Web) -> None:
    body = {"messages": [message(part(web.url("/x.png")))]}
    with tight.connect() as client:
        request_id = client.ask(CHAT, body, fake={"hang": True})
        until(lambda: tight.seen(request_id), "the request at the engine")
        picture_comes(tight, web)
        assert not tight.records(request_id)


def test_media_that_the_engine_does_not_read_are_held_until_the_request_ends(
    tight: Sidecar, web: Web
) -> None:
    with tight.connect() as first, tight.connect() as second:
        body = {"messages": [message(part(web.url("/12-mb")))]}
        slow = first.ask(CHAT, body, fake={"read_rate": 200_000})
        until(lambda: len(web.asked) == 1, "the visit")
        waiting = second.ask(CHAT, {"messages": [message(part(web.url("/x.png")))]})
        until(lambda: len(web.asked) == 2, "the second visit")
        time.sleep(0.5)
        assert not tight.seen(waiting)
        first.reset()
        assert second.answer().status == 200
    assert ending(tight.record(slow))[:2] == (499, "client_closed")


@pytest.mark.parametrize(
    ("path", "fake", "status"),
    [
        ("/x.png", {"die": "before_headers"}, 502),
        ("/x.png", {"die": "between_events:2"}, 200),
        ("/x.png", {"garbage": "before_headers"}, 502),
        ("/x.png", {"status": 500}, 500),
        ("/12-mb", {"early_answer": 1000}, 413),
        ("/none", {}, 400),
        ("/big", {}, 200),
    ],
)
def test_however_a_request_ends_its_media_keep_no_other_waiting(
    tight: Sidecar, web: Web, path: str, fake: dict[str, Any], status: int
) -> None:
    body = {**STREAM, "messages": [message(part(web.url(path)))]}
    with tight.connect() as client:
        client.ask(CHAT, body, fake=fake)
        assert client.answer().status == status
    picture_comes(tight, web)


@pytest.mark.parametrize("how", ["fin", "rst"])
def test_a_client_that_leaves_ends_the_fetching_and_keeps_no_other_waiting(
    tight: Sidecar, web: Web, how: str
) -> None:
    with tight.connect() as client:
        parts = [part(web.url(path)) for path in ("/x.png", "/hang")]
        request_id = client.ask(CHAT, {"messages": [message(*parts)]})
        until(lambda: len(web.asked) == 2, "the visits")
        client.close() if how == "fin" else client.reset()
        until(lambda: web.hang_ups, "the end of the visit")
        picture_comes(tight, web)
    assert ending(tight.record(request_id))[:2] == (499, "client_closed")
    assert tight.seen(request_id) == []


def test_a_body_without_urls_is_not_touched(service: Sidecar) -> None:
    body = json.dumps({"messages": [message(part(DATA_URL))], "n": 1e2, "user": "\ud83d"}).encode()
    answer = service.ask(CHAT, body)
    (received,) = service.seen(answer)
    assert received.body_sha256 == sha256(body).hexdigest()
    assert not {"media_fetch_ms", "media_bytes"} & set(service.record(answer))
