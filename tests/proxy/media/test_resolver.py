"""What becomes of a body's media URLs before the engine sees it."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from proxy.access.routes import Route
from proxy.errors import MediaRefused, MediaUnavailable
from proxy.media.fetch import File
from proxy.media.resolver import MediaResolver, media_resolver
from proxy.settings import Settings
from proxy.telemetry.record import Record
from proxy.telemetry.request_log import present_fields
from tests.proxy.media.web import PUBLIC, Asked, Names, answered, fetcher, policy, server, site

PICTURE = b"\x89PNG\r\n\x1a\n" * 100
DATA_URL = "data:image/png;base64," + b64encode(PICTURE).decode()


def answer(asked: Asked) -> bytes:
    if asked.target == "/none":
        return answered(status=404)
    if asked.target == "/cut":
        return answered(PICTURE, content_length=str(2 * len(PICTURE)))
    if asked.target == "/inside":
        return answered(status=302, location="http://in.example/")
    return answered(PICTURE, content_type="image/png")


class Web:
    """All that is to be fetched, and the resolver that does it."""

    def __init__(self, port: str, asked: list[Asked]) -> None:
        self._port = port
        self._asked = asked
        self.names = Names(a=[[PUBLIC]], **{"in": [["10.0.0.1"]]})

    @property
    def asked(self) -> list[str]:
        return [one.target for one in self._asked]

    def url(self, path: str, host: str = "a.example") -> str:
        return f"http://{host}{self._port}{path}"

    def resolver(
        self,
        *,
        fetches: bool = True,
        most: int = 4,
        body_bytes: int = 10**6,
        memory_bytes: int = 10**7,
        seconds: float = 60.0,
    ) -> MediaResolver:
        return MediaResolver(
            policy(self.names),
            partial(fetcher, self.names, seconds=seconds) if fetches else None,
            max_urls=most,
            max_body_bytes=body_bytes,
            memory_bytes=memory_bytes,
        )


@pytest.fixture
async def web() -> AsyncIterator[Web]:
    async with site(answer) as (port, asked):
        yield Web(port, asked)


def record() -> Record:
    return Record("POST", "/v1/chat/completions", Route.CHAT)


def chat(*urls: str, **more: Any) -> bytes:
    parts = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return json.dumps({**more, "messages": [{"role": "user", "content": parts}]}).encode()


async def test_only_the_string_of_a_url_changes_and_each_is_fetched_once(web: Web) -> None:
    noted = record()
    body = b'{ "n" : 1e2 , ' + chat(web.url("/x"), DATA_URL, web.url("/x"))[1:] + b" "
    resolved = await web.resolver().resolve(Route.CHAT, bytearray(body), noted)
    assert resolved is not None
    assert b"".join(resolved[0]) == body.replace(web.url("/x").encode(), DATA_URL.encode())
    assert web.asked == ["/x"]
    assert noted.media_bytes == len(PICTURE)
    fields = present_fields(noted)
    assert fields["media_bytes"] == len(PICTURE)
    assert fields["media_fetch_ms"] >= 0


async def test_a_body_without_urls_is_left_as_it_is_and_nothing_is_noted(web: Web) -> None:
    noted = record()
    assert await web.resolver().resolve(Route.CHAT, chat(DATA_URL), noted) is None
    assert not web.resolver().is_needed(Route.CHAT, chat(DATA_URL))
    assert not {"media_bytes", "media_fetch_ms"} & set(present_fields(noted))


async def test_where_the_engine_fetches_urls_are_judged_and_left_alone(web: Web) -> None:
    noted = record()
    judging = web.resolver(fetches=False)
    assert await judging.resolve(Route.CHAT, chat(web.url("/x")), noted) is None
    with pytest.raises(MediaRefused, match="public"):
        await judging.resolve(Route.CHAT, chat(web.url("/x", "in.example")), noted)
    assert web.asked == []
    assert noted.media_seconds is None


async def test_one_url_that_is_refused_by_its_text_keeps_all_from_being_fetched(web: Web) -> None:
    body = chat(web.url("/x"), "file:///etc/passwd")
    with pytest.raises(MediaRefused) as refused:
        await web.resolver().resolve(Route.CHAT, body, record())
    assert refused.value.param == "messages[0].content[1].image_url.url"
    assert web.asked == []


async def test_one_that_is_not_there_fails_the_request_and_the_time_is_noted(web: Web) -> None:
    noted = record()
    body = chat(web.url("/x"), web.url("/none"))
    with pytest.raises(MediaUnavailable, match="404") as failed:
        await web.resolver().resolve(Route.CHAT, body, noted)
    assert failed.value.param == "messages[0].content[1].image_url.url"
    assert noted.media_seconds is not None


async def test_urls_and_what_they_add_to_a_body_are_limited(web: Web) -> None:
    many = [web.url(f"/{number}") for number in range(5)]
    with pytest.raises(MediaRefused, match="IMAGE_LIMIT"):
        await web.resolver().resolve(Route.CHAT, chat(*many), record())
    assert web.asked == []
    with pytest.raises(MediaUnavailable, match="MAX_BODY_MB"):
        await web.resolver(body_bytes=2000).resolve(Route.CHAT, chat(*many[:2]), record())
    assert set(web.asked) == {"/0", "/1"}


async def test_the_same_url_many_times_is_limited_like_many_urls(web: Web) -> None:
    with pytest.raises(MediaRefused, match="IMAGE_LIMIT"):
        await web.resolver().resolve(Route.CHAT, chat(*[web.url("/x")] * 5), record())
    twice = chat(*[web.url("/x")] * 2)
    with pytest.raises(MediaUnavailable, match="MAX_BODY_MB"):
        await web.resolver(body_bytes=2000).resolve(Route.CHAT, twice, record())


async def test_a_body_in_utf_16_goes_on_in_utf_8_where_it_has_urls(web: Web) -> None:
    body = chat(web.url("/x"), user="é")
    resolved = await web.resolver().resolve(Route.CHAT, body.decode().encode("utf-16"), record())
    assert resolved is not None
    assert json.loads(b"".join(resolved[0])) == json.loads(chat(DATA_URL, user="é"))


# The memory of what was fetched --------------------------------------------------------------


async def test_memory_is_held_until_it_is_given_back_and_base64_counts(web: Web) -> None:
    taken = web.resolver()
    twice = chat(*[web.url("/x")] * 2)  # it stands twice in the body, and is held once
    resolved = await taken.resolve(Route.CHAT, twice, record())
    assert resolved is not None
    _, give_back = resolved
    assert len(b64encode(PICTURE)) - 4 <= taken.memory.held <= len(b64encode(PICTURE)) + 4
    give_back()
    assert taken.memory.held == 0
    give_back()


@pytest.mark.parametrize(
    ("path", "body_bytes"), [("/none", 10**6), ("/inside", 10**6), ("/y", 2000)]
)
async def test_a_request_that_fails_gives_its_memory_back(
    web: Web, path: str, body_bytes: int
) -> None:
    taken = web.resolver(body_bytes=body_bytes)
    with pytest.raises((MediaRefused, MediaUnavailable)):
        await taken.resolve(Route.CHAT, chat(web.url("/x"), web.url(path)), record())
    assert taken.memory.held == 0


@pytest.mark.parametrize("last", ["/none", "/cut"])
async def test_what_has_come_for_a_request_that_fails_waits_for_no_collector_of_garbage(
    web: Web, last: str
) -> None:
    resolver = web.resolver()
    body = chat(web.url("/1"), web.url("/2"), web.url(last))
    await resolver.resolve(Route.CHAT, chat(web.url("/1")), record())
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(MediaUnavailable) as failed:
            await resolver.resolve(Route.CHAT, body, record())
        del failed
        await asyncio.sleep(0)
        assert not [each for each in gc.get_objects() if isinstance(each, File)]
    finally:
        gc.enable()


@pytest.mark.parametrize("leaves", [False, True])
async def test_memory_is_given_back_where_a_file_does_not_come_and_where_the_client_leaves(
    web: Web, leaves: bool
) -> None:
    async def silent(_: Asked, reader: asyncio.StreamReader, __: asyncio.StreamWriter) -> None:
        await reader.read()

    async with server(silent) as port:
        taken = web.resolver(seconds=60.0 if leaves else 1.0)
        body = chat(web.url("/x"), f"http://a.example:{port}/hang")
        task = asyncio.ensure_future(taken.resolve(Route.CHAT, body, record()))
        while not taken.memory.held:
            assert not task.done()
            await asyncio.sleep(0.01)
        if leaves:
            task.cancel()
        with pytest.raises((MediaUnavailable, asyncio.CancelledError)):
            await task
    assert taken.memory.held == 0


async def test_who_waits_for_memory_gets_it_when_others_have_given_theirs_back(web: Web) -> None:
    taken = web.resolver(body_bytes=3000, memory_bytes=3000)  # one request's at a time
    first = await taken.resolve(Route.CHAT, chat(web.url("/1")), record())
    assert first is not None
    second = asyncio.ensure_future(taken.resolve(Route.CHAT, chat(web.url("/2")), record()))
    while len(web.asked) < 2:
        assert not second.done()
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.1)
    assert not second.done()
    first[1]()
    resolved = await second
    assert resolved is not None
    resolved[1]()
    assert taken.memory.held == 0


async def test_who_waits_for_memory_in_vain_is_told_after_the_time_of_a_fetch(web: Web) -> None:
    taken = web.resolver(body_bytes=3000, memory_bytes=3000, seconds=1.0)
    first = await taken.resolve(Route.CHAT, chat(web.url("/1")), record())
    assert first is not None
    with pytest.raises(MediaUnavailable, match="MEDIA_FETCH_TIMEOUT"):
        await taken.resolve(Route.CHAT, chat(web.url("/2")), record())


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
    assert (media_resolver(settings)._make_fetcher is not None) is fetches


async def test_a_folder_that_is_opened_to_the_engine_is_left_to_it() -> None:
    opened = media_resolver(Settings.load({}), allow_local_files=True)
    assert await opened.resolve(Route.CHAT, chat("file:///media/x.png"), record()) is None


def test_fetching_takes_no_longer_than_a_request_may() -> None:
    for environ, seconds in (
        ({}, 30.0),
        ({"REQUEST_TIMEOUT": "10"}, 10.0),
        ({"REQUEST_TIMEOUT": "3600"}, 30.0),
    ):
        make_fetcher = media_resolver(Settings.load(environ))._make_fetcher
        assert make_fetcher is not None
        assert make_fetcher()._limits.seconds == seconds


@pytest.mark.parametrize("name", ["messages", "input", "documents", "images"])
async def test_a_route_that_says_nothing_is_judged_by_all_that_is_known(
    web: Web, name: str
) -> None:
    body = json.dumps({name: [{"image_url": "http://in.example/x", "url": "http://in.example/x"}]})
    judging = web.resolver(fetches=False)
    assert judging.is_needed("a new route", body.encode())
    with pytest.raises(MediaRefused, match="public"):
        await judging.resolve("a new route", body.encode(), record())


async def test_a_large_body_is_judged_and_rewritten_like_a_small_one(web: Web) -> None:
    noted = record()
    body = chat(web.url("/x"), DATA_URL + "A" * 2_000_000, user="a: colon")
    assert web.resolver().is_needed(Route.CHAT, body)
    resolver = web.resolver(body_bytes=10**7, memory_bytes=2 * 10**7)
    resolved = await resolver.resolve(Route.CHAT, bytearray(body), noted)
    assert resolved is not None
    assert b"".join(resolved[0]) == body.replace(web.url("/x").encode(), DATA_URL.encode())
    with pytest.raises(MediaRefused, match="public"):
        await web.resolver().resolve(
            Route.CHAT, chat("http://in.example/", user="x" * 10**6), noted
        )


async def test_the_first_requests_at_once_share_one_fetcher(web: Web) -> None:
    resolver = web.resolver()
    make_fetcher, made = resolver._make_fetcher, []
    assert make_fetcher is not None

    def make() -> Any:
        made.append(make_fetcher())
        return made[-1]

    resolver._make_fetcher = make
    bodies = [chat(web.url(f"/{number}")) for number in range(3)]
    resolved = await asyncio.gather(*(resolver.resolve(Route.CHAT, b, record()) for b in bodies))
    assert None not in resolved
    assert len(made) == 1


def test_a_sidecar_that_fetches_nothing_does_not_import_the_library_for_it() -> None:
    """It takes a quarter of a second of each start, and 9 MB."""
    code = "import sys, proxy.commands.serve, proxy.app; raise SystemExit('aiohttp' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
