"""Files fetched in the engine's place: from where, how much, how long."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from proxy.errors import MediaRefused, MediaUnavailable, RequestFailure
from proxy.media.fetch import MAX_REDIRECTS, Budget, Fetcher, FetchLimits
from proxy.media.policy import Policy
from tests.patience import PATIENCE

PARAM = "messages[0].content[0].image_url.url"
PUBLIC = "93.184.215.14"
PICTURE = bytes(range(256)) * 50
Answer = Callable[[httpx.Request], httpx.Response]


def sent(content: bytes, **headers: str) -> httpx.Response:
    """An answer that is still to be read."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(200, stream=httpx.ByteStream(content), headers=named)


class Names:
    """A name server of the tests: each question gets the next answer, the last one for good."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        answers = self._answers[host.partition(".")[0]]
        return answers.pop(0) if len(answers) > 1 else answers[0]


def fetcher(answer: Answer, names: Names, *, limit: int = 100_000) -> Fetcher:
    transport = httpx.MockTransport(answer)
    return Fetcher(Policy(resolve=names), FetchLimits(limit, 5.0, 8), lambda: transport)


async def fetched(fetcher: Fetcher, url: str, budget: int = 10**6) -> tuple[bytes, str]:
    """Bytes and type."""
    target = Policy().target(url, PARAM)
    assert target is not None
    file = await fetcher.fetch(target, PARAM, Budget(budget))
    head, encoded = b"".join(file.as_data_url()).split(b",")
    data = b64decode(encoded, validate=True)
    assert len(data) == file.size
    return data, head.decode().removeprefix("data:").removesuffix(";base64")


async def test_a_file_comes_as_a_data_url_from_the_one_address_that_was_looked_at() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return sent(PICTURE, content_type="image/png; x=1")

    names = Names(example=[[PUBLIC], ["127.0.0.1"]])
    got = await fetched(fetcher(answer, names), "https://example.com:8443/a?b=c#d")
    assert got == (PICTURE, "image/png")
    (request,) = seen
    assert (request.url.host, request.url.port) == (PUBLIC, 8443)
    assert request.url.raw_path == b"/a?b=c"
    assert request.headers["host"] == "example.com:8443"
    assert request.extensions["sni_hostname"] == "example.com"
    assert not {"cookie", "authorization", "referer"} & set(request.headers)
    assert names.asked == ["example.com"]


async def test_a_second_answer_of_the_name_server_is_judged_like_the_first() -> None:
    """DNS rebinding: a redirect to the same host asks again, and gets another address."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.url.host == PUBLIC
        return httpx.Response(302, headers={"location": "/again"})

    names = Names(example=[[PUBLIC], ["127.0.0.1"]])
    with pytest.raises(MediaRefused, match="public"):
        await fetched(fetcher(answer, names), "http://example.com/")
    assert names.asked == ["example.com", "example.com"]


LEADS_AWAY = (
    *("http://127.0.0.1/", "//127.0.0.1/", "http://169.254.169.254/latest/", "http://[::1]/"),
    *(
        "http://2130706433/",
        "http://inside.example/",
        "file:///etc/passwd",
        "gopher://x/",
        "data:,x",
    ),
    *("http://example.com@127.0.0.1/", "http:\\\\127.0.0.1/", "\\\\127.0.0.1/", "http://[::1"),
    *("http://0/", "HTTP://127.1/", "http://127.0.0.1:80", "///127.0.0.1/", "http:127.0.0.1"),
)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", LEADS_AWAY)
async def test_a_redirect_leads_nowhere_that_a_url_does_not(location: str, status: int) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        away = location if len(asked) == 3 else "http://example.com/next"
        return httpx.Response(status, headers={"location": away})

    names = Names(example=[[PUBLIC]], inside=[["10.0.0.1"]])
    names._answers |= {host: [[host]] for host in ("127", "169")} | {"::1": [["::1"]]}
    with pytest.raises((MediaRefused, MediaUnavailable)):
        await fetched(fetcher(answer, names), "http://example.com/")
    # `///127.0.0.1/` and `http:127.0.0.1` are paths of the same host to urljoin.
    assert set(asked) == {PUBLIC}


async def test_redirects_are_followed_to_public_places_and_not_for_ever() -> None:
    hops: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        hops.append(str(request.url.copy_with(host=request.headers["host"])))
        if request.url.path == "/end":
            return sent(b"x")
        number = int(request.url.path[1:] or 0)
        last = number == MAX_REDIRECTS - 1 and "few" in request.headers["host"]
        following = "https://other.example/end" if last else f"/{number + 1}"
        return httpx.Response(307, headers={"location": following})

    names = Names(few=[[PUBLIC]], many=[[PUBLIC]], other=[["1.1.1.1"]])
    assert await fetched(fetcher(answer, names), "http://few.example/0") == (
        b"x",
        "application/octet-stream",
    )
    assert hops[-1] == "https://other.example/end"
    with pytest.raises(MediaUnavailable, match="redirected more than 5 times"):
        await fetched(fetcher(answer, names), "http://many.example/0")


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (httpx.Response(404, content=b"/srv/secret"), "got status 404"),
        (httpx.Response(500), "got status 500"),
        (httpx.Response(206, content=b"x"), "got status 206"),
        (httpx.Response(200, headers={"content-length": "200000"}), "MEDIA_FETCH_MAX_MB"),
        (sent(b"x" * 200_000), "MEDIA_FETCH_MAX_MB"),
        (sent(b"x" * 90_000), "MAX_BODY_MB"),
        (httpx.Response(200, headers={"content-encoding": "gzip"}), "compressed"),
        (httpx.Response(302), "redirected more than"),
        (httpx.Response(200, headers={"content-length": "x"}), "could not be fetched"),
    ],
)
async def test_what_is_not_a_file_of_fitting_size_is_told_as_such(
    response: httpx.Response, said: str
) -> None:
    names = Names(example=[[PUBLIC]])
    with pytest.raises(MediaUnavailable, match=said) as failed:
        await fetched(fetcher(lambda _: response, names), "http://example.com/", budget=100_000)
    assert failed.value.param == PARAM
    assert "secret" not in failed.value.message


@pytest.mark.parametrize(
    ("said", "used"),
    [
        ("image/jpeg", "image/jpeg"),
        ("IMAGE/SVG+XML ; charset=utf-8", "image/svg+xml"),
        ("video/mp4", "video/mp4"),
        ("video/jpeg", "application/octet-stream"),
        ("text/html", "application/octet-stream"),
        ('image/png",x', "application/octet-stream"),
        ("image/a b", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
async def test_the_type_is_what_the_server_calls_it_where_that_changes_no_meaning(
    said: str, used: str
) -> None:
    response = sent(b"x", content_type=said)
    names = Names(example=[[PUBLIC]])
    assert (await fetched(fetcher(lambda _: response, names), "http://example.com/"))[1] == used


async def test_an_address_that_takes_no_connection_is_followed_by_the_next() -> None:
    asked: list[tuple[str, float]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.host, request.extensions["timeout"]["connect"]))
        if request.url.host == "2606:4700::1111":
            raise httpx.ConnectError("no route")
        if request.url.host == "8.8.8.8":
            raise httpx.ConnectTimeout("nobody there")
        return sent(b"x")

    names = Names(example=[["2606:4700::1111", "8.8.8.8", "1.1.1.1"]])
    await fetched(fetcher(answer, names), "http://example.com/")
    # The last one may take all the time that there is.
    assert asked == [("2606:4700::1111", 3.0), ("8.8.8.8", 3.0), ("1.1.1.1", 5.0)]
    names = Names(example=[["2606:4700::1111"]])
    with pytest.raises(MediaUnavailable, match="could not be fetched"):
        await fetched(fetcher(answer, names), "http://example.com/")


# With sockets ---------------------------------------------------------------------------------


@asynccontextmanager
async def server(
    reply: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    host: str = "127.0.0.1",
    **options: Any,
) -> AsyncIterator[int]:
    """The port of a server that reads the head of a request and then does `reply`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            await reply(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(serve, host, 0, **options) as listening:
        yield listening.sockets[0].getsockname()[1]


def near(names: Names, *, seconds: float = 5.0, at_once: int = 8) -> Fetcher:
    """Of this machine's addresses only 127.0.0.1 counts as public."""
    policy = Policy(resolve=names, is_reachable=lambda address: address == "127.0.0.1")
    return Fetcher(policy, FetchLimits(10**6, seconds, at_once))


async def test_a_connection_goes_to_the_judged_address_and_a_redirect_to_no_other() -> None:
    canary: list[bytes] = []

    async def caught(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        canary.append(b"reached")

    async with server(caught, "127.0.0.2") as secret:

        async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 302 x\r\nlocation: http://inside.example:%d/\r\n\r\n" % secret)

        names = Names(outside=[["127.0.0.1"]], inside=[["127.0.0.2"]])
        async with server(reply) as port:
            with pytest.raises(MediaRefused):
                await fetched(near(names), f"http://outside.example:{port}/")
            with pytest.raises(MediaRefused):
                await fetched(near(names), f"http://inside.example:{secret}/")
    assert names.asked == ["outside.example", "inside.example", "inside.example"]
    assert canary == []


async def test_a_file_without_an_end_or_a_server_without_a_word_ends_in_time() -> None:
    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    names = Names(example=[["127.0.0.1"]])
    for reply, said in ((drip, "within"), (silent, "within"), (flood, "larger than")):
        async with server(reply) as port:
            loop = asyncio.get_running_loop()
            started = loop.time()
            with pytest.raises(MediaUnavailable, match=said):
                await fetched(near(names, seconds=0.3), f"http://example.com:{port}/")
            assert loop.time() - started < 2


async def test_no_more_are_fetched_at_a_time_than_the_limit() -> None:
    running, most = 0, 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx")

    names = Names(example=[["127.0.0.1"]])
    async with server(slow) as port:
        one = near(names, at_once=2, seconds=PATIENCE)
        await asyncio.gather(*(fetched(one, f"http://example.com:{port}/") for _ in range(10)))
    assert most == 2


async def test_waiting_for_others_counts() -> None:
    asked, over = 0, asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await over.wait()

    names = Names(example=[["127.0.0.1"]])
    async with server(silent) as port:
        one = near(names, at_once=1, seconds=0.3)
        url = f"http://example.com:{port}/"
        late = await asyncio.gather(*(fetched(one, url) for _ in range(9)), return_exceptions=True)
        over.set()
    assert all(isinstance(result, RequestFailure) for result in late), late
    assert asked < 9, "each had its time while it waited for the one before"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """Of right.example, and its key."""
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    request = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=right.example"
    more = ["-addext", "subjectAltName=DNS:right.example", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*request.split(), *more], check=True, capture_output=True)
    return cert, key


async def test_the_certificate_must_be_of_the_host_and_not_of_the_address(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx")

    names = Names(right=[["127.0.0.1"]], wrong=[["127.0.0.1"]])
    async with server(reply, ssl=context) as port:
        assert (await fetched(near(names), f"https://right.example:{port}/"))[0] == b"x"
        with pytest.raises(MediaUnavailable, match="could not be fetched"):
            await fetched(near(names), f"https://wrong.example:{port}/")
