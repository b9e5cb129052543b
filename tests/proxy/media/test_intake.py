"""What becomes of a body's media URLs before the engine sees it."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import httpx
import pytest

from proxy.edge.routes import Route
from proxy.errors import MediaRefused, MediaUnavailable
from proxy.media.fetch import Fetcher, FetchLimits
from proxy.media.intake import Intake, intake
from proxy.media.places import ROOTS
from proxy.media.policy import Policy
from proxy.settings import Settings
from proxy.telemetry.record import Record

PICTURE = b"\x89PNG\r\n\x1a\n" * 100
DATA_URL = "data:image/png;base64," + b64encode(PICTURE).decode()


async def resolve(host: str, port: int) -> list[str]:
    return {"a.example": ["93.184.215.14"], "in.example": ["10.0.0.1"]}[host]


class Web:
    """All that is to be fetched."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.path)
        if request.url.path == "/none":
            return httpx.Response(404)
        headers = {"content-type": "image/png"}
        return httpx.Response(200, stream=httpx.ByteStream(PICTURE), headers=headers)

    def intake(self, *, fetches: bool = True, most: int = 4, body_bytes: int = 10**6) -> Intake:
        policy = Policy(resolve=resolve)
        transport = httpx.MockTransport(self)
        fetcher = Fetcher(policy, FetchLimits(10**6, 5.0, 4), lambda: transport)
        return Intake(
            policy, fetcher if fetches else None, max_urls=most, max_body_bytes=body_bytes
        )


def record() -> Record:
    return Record("POST", "/v1/chat/completions", Route.CHAT)


def chat(*urls: str, **more: Any) -> bytes:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return json.dumps({**more, "messages": [{"role": "user", "content": parts}]}).encode()


async def test_only_the_string_of_a_url_changes_and_each_is_fetched_once() -> None:
    web, noted = Web(), record()
    body = b'{ "n" : 1e2 , ' + chat("http://a.example/x", DATA_URL, "http://a.example/x")[1:] + b" "
    parts = await web.intake().settle(Route.CHAT, bytearray(body), noted)
    assert parts is not None
    assert b"".join(parts) == body.replace(b"http://a.example/x", DATA_URL.encode())
    assert web.asked == ["/x"]
    assert noted.media_bytes == len(PICTURE)
    fields = noted.fields()
    assert fields["media_bytes"] == len(PICTURE)
    assert fields["media_fetch_ms"] >= 0


async def test_a_body_without_urls_is_left_as_it_is_and_nothing_is_noted() -> None:
    web, noted = Web(), record()
    assert await web.intake().settle(Route.CHAT, chat(DATA_URL), noted) is None
    assert not web.intake().concerns(Route.CHAT, chat(DATA_URL))
    assert not {"media_bytes", "media_fetch_ms"} & set(noted.fields())


async def test_where_the_engine_fetches_urls_are_judged_and_left_alone() -> None:
    web, noted = Web(), record()
    judging = web.intake(fetches=False)
    assert await judging.settle(Route.CHAT, chat("http://a.example/x"), noted) is None
    with pytest.raises(MediaRefused, match="public"):
        await judging.settle(Route.CHAT, chat("http://in.example/x"), noted)
    assert web.asked == []
    assert noted.media_seconds is None


async def test_one_url_that_is_refused_by_its_text_keeps_all_from_being_fetched() -> None:
    web = Web()
    body = chat("http://a.example/x", "file:///etc/passwd")
    with pytest.raises(MediaRefused) as refused:
        await web.intake().settle(Route.CHAT, body, record())
    assert refused.value.param == "messages[0].content[1].image_url.url"
    assert web.asked == []


async def test_one_that_is_not_there_fails_the_request_and_the_time_is_noted() -> None:
    noted = record()
    body = chat("http://a.example/x", "http://a.example/none")
    with pytest.raises(MediaUnavailable, match="404") as failed:
        await Web().intake().settle(Route.CHAT, body, noted)
    assert failed.value.param == "messages[0].content[1].image_url.url"
    assert noted.media_seconds is not None


async def test_urls_and_what_they_add_to_a_body_are_limited() -> None:
    web = Web()
    many = [f"http://a.example/{number}" for number in range(5)]
    with pytest.raises(MediaRefused, match="IMAGE_LIMIT"):
        await web.intake().settle(Route.CHAT, chat(*many), record())
    assert web.asked == []
    with pytest.raises(MediaUnavailable, match="MAX_BODY_MB"):
        await web.intake(body_bytes=2000).settle(Route.CHAT, chat(*many[:2]), record())
    assert set(web.asked) == {"/0", "/1"}


async def test_the_same_url_many_times_is_limited_like_many_urls() -> None:
    web = Web()
    with pytest.raises(MediaRefused, match="IMAGE_LIMIT"):
        await web.intake().settle(Route.CHAT, chat(*["http://a.example/x"] * 5), record())
    twice = chat(*["http://a.example/x"] * 2)
    with pytest.raises(MediaUnavailable, match="MAX_BODY_MB"):
        await web.intake(body_bytes=2000).settle(Route.CHAT, twice, record())


async def test_a_body_in_utf_16_goes_on_in_utf_8_where_it_has_urls() -> None:
    body = chat("http://a.example/x", user="é")
    parts = await Web().intake().settle(Route.CHAT, body.decode().encode("utf-16"), record())
    assert parts is not None
    assert json.loads(b"".join(parts)) == json.loads(chat(DATA_URL, user="é"))


@pytest.mark.parametrize(
    ("environ", "fetches"),
    [
        ({}, True),
        ({"MEDIA_FETCH": "engine"}, False),
        ({"ALLOWED_MEDIA_DOMAINS": "a.example"}, False),
        ({"ALLOWED_MEDIA_DOMAINS": "a.example", "MEDIA_FETCH": "proxy"}, True),
    ],
)
def test_who_fetches_follows_from_the_settings(environ: dict[str, str], fetches: bool) -> None:
    settings = Settings.load(environ)
    assert settings.sidecar_fetches_media is fetches
    assert (intake(settings)._fetcher is not None) is fetches


@pytest.mark.parametrize("name", ["ALLOWED_LOCAL_MEDIA_PATH", "VLLM_EXTRA_ARGS"])
async def test_a_folder_that_is_opened_to_the_engine_is_left_to_it(name: str) -> None:
    value = "/media" if name.startswith("ALLOWED") else "--allowed-local-media-path /media"
    opened = intake(Settings.load({name: value}))
    assert await opened.settle(Route.CHAT, chat("file:///media/x.png"), record()) is None
    await opened.close()


def test_fetching_takes_no_longer_than_a_request_may() -> None:
    for environ, seconds in (
        ({}, 30.0),
        ({"REQUEST_TIMEOUT": "10"}, 10.0),
        ({"REQUEST_TIMEOUT": "3600"}, 30.0),
    ):
        fetcher = intake(Settings.load(environ))._fetcher
        assert fetcher is not None
        assert fetcher._limits.seconds == seconds


async def test_every_route_says_where_its_body_points_at_media_or_that_it_does_not() -> None:
    assert set(ROOTS) == set(Route)


@pytest.mark.parametrize("name", ["messages", "input", "documents", "images"])
async def test_a_route_that_says_nothing_is_judged_by_all_that_is_known(name: str) -> None:
    body = json.dumps({name: [{"image_url": "http://in.example/x", "url": "http://in.example/x"}]})
    judging = Web().intake(fetches=False)
    assert judging.concerns("a new route", body.encode())
    with pytest.raises(MediaRefused, match="public"):
        await judging.settle("a new route", body.encode(), record())


async def test_a_large_body_is_judged_and_rewritten_like_a_small_one() -> None:
    web, noted = Web(), record()
    body = chat("http://a.example/x", DATA_URL + "A" * 2_000_000, user="a: colon")
    assert web.intake().concerns(Route.CHAT, body)
    parts = await web.intake(body_bytes=10**7).settle(Route.CHAT, bytearray(body), noted)
    assert parts is not None
    assert b"".join(parts) == body.replace(b"http://a.example/x", DATA_URL.encode())
    with pytest.raises(MediaRefused, match="public"):
        await web.intake().settle(Route.CHAT, chat("http://in.example/", user="x" * 10**6), noted)
