"""Files fetched in the engine's place: from where, how much, how long."""

from __future__ import annotations

import asyncio
import gzip
import ssl
import subprocess
from base64 import b64decode
from pathlib import Path

import pytest

from proxy.errors import MediaRefused, MediaUnavailable, RequestFailure
from proxy.media import fetch as fetch_module
from proxy.media.fetch import MAX_REDIRECTS, Fetcher, File
from proxy.media.memory import MediaMemory
from proxy.media.policy import Policy
from tests.patience import PATIENCE
from tests.proxy.media.web import (
    OTHER_PUBLIC,
    PUBLIC,
    Asked,
    Names,
    answered,
    fetcher,
    server,
    site,
)

PARAM = "messages[0].content[0].image_url.url"
PICTURE = bytes(range(256)) * 50


async def fetched(fetcher: Fetcher, url: str, budget: int = 10**7) -> tuple[bytes, str]:
    """Bytes and type."""
    target = Policy().target(url, PARAM)
    assert target is not None
    file = await fetcher.fetch(target, PARAM, MediaMemory(budget, budget).share(budget))
    head, encoded = b"".join(file.as_data_url()).split(b",")
    data = b64decode(encoded, validate=True)
    assert len(data) == file.size
    return data, head.decode().removeprefix("data:").removesuffix(";base64")


async def test_a_file_comes_as_a_data_url_from_the_one_address_that_was_looked_at() -> None:
    names = Names(example=[[PUBLIC], ["127.0.0.1"]])
    async with site(lambda _: answered(PICTURE, content_type="image/png; x=1")) as (port, asked):
        got = await fetched(fetcher(names), f"http://example.com{port}/a?b=c#d")
    assert got == (PICTURE, "image/png")
    (request,) = asked
    assert request.target == "/a?b=c"
    assert request.headers["host"] == f"example.com{port}"
    assert not {"cookie", "authorization", "referer"} & set(request.headers)
    assert names.asked == ["example.com"]


@pytest.mark.parametrize(
    ("rest", "target"),
    [
        ("/a%2Fb?sig=%2B%7e+/=&x=[1]", "/a%2Fb?sig=%2B%7e+/=&x=[1]"),
        ('/a b/é?q="<>"', "/a%20b/%C3%A9?q=%22%3C%3E%22"),
        ("?x", "/?x"),
        ("/a/../b", "/a/../b"),
    ],
)
async def test_a_url_is_asked_for_as_it_is_written(rest: str, target: str) -> None:
    """A signature in it may be of each byte."""
    async with site(lambda _: answered(b"x")) as (port, asked):
        await fetched(fetcher(Names(example=[[PUBLIC]])), f"http://example.com{port}{rest}")
    assert [request.target for request in asked] == [target]


async def test_half_a_character_in_a_url_leads_nowhere() -> None:
    async with site(lambda _: answered(b"x")) as (port, asked):
        with pytest.raises(MediaUnavailable, match="could not be fetched"):
            await fetched(fetcher(Names(example=[[PUBLIC]])), f"http://example.com{port}/\ud83d")
    assert asked == []


async def test_nothing_of_one_fetch_reaches_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Neither cookies nor a connection, and nothing of the environment either."""
    (tmp_path / "netrc").write_text("default login user password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://user:secret@127.0.0.1:1")
    cookies = "".join(f"set-cookie: c{n}={'x' * 4000}; path=/\r\n" for n in range(20))
    state = f'{cookies}www-authenticate: Basic realm=x\r\nalt-svc: h2=":1"; ma=9\r\n'

    def answer(request: Asked) -> bytes:
        status, away = (302, "location: /x\r\n") if request.target == "/away" else (200, "")
        head = f"HTTP/1.1 {status} x\r\n{state}{away}content-length: 1\r\n"
        return f"{head}connection: keep-alive\r\n\r\nx".encode()

    names = Names(a=[[PUBLIC]], b=[[PUBLIC]])
    async with site(answer) as (port, asked):
        one = fetcher(names)
        for host, path in (("a", "/away"), ("a", "/x"), ("b", "/x")):
            assert await fetched(one, f"http://{host}.example{port}{path}")
    assert [request.headers["host"][0] for request in asked] == ["a", "a", "a", "b"]
    for request in asked:
        sent = {"host", "user-agent", "accept", "accept-encoding", "connection"}
        assert set(request.headers) <= sent


async def test_a_second_answer_of_the_name_server_is_judged_like_the_first() -> None:
    """DNS rebinding: a redirect to the same host asks again, and gets another address."""
    names = Names(example=[[PUBLIC], ["127.0.0.1"]])
    async with site(lambda _: answered(status=302, location="/again")) as (port, asked):
        with pytest.raises(MediaRefused, match="public"):
            await fetched(fetcher(names), f"http://example.com{port}/")
    assert names.asked == ["example.com", "example.com"]
    assert len(asked) == 1


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
# To urljoin these are paths of the same host.
_PATHS = ("///127.0.0.1/", "http:127.0.0.1")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("location", LEADS_AWAY)
async def test_a_redirect_leads_nowhere_that_a_url_does_not(location: str, status: int) -> None:
    hops = 0

    def answer(request: Asked) -> bytes:
        nonlocal hops
        hops += 1
        away = location if hops == 3 else f"http://{request.headers['host']}/next"
        return answered(status=status, location=away)

    names = Names(example=[[PUBLIC]], inside=[["10.0.0.1"]])
    async with site(answer) as (port, asked):
        with pytest.raises((MediaRefused, MediaUnavailable)):
            await fetched(fetcher(names), f"http://example.com{port}/")
    assert len(asked) == (MAX_REDIRECTS + 1 if location in _PATHS else 3)


async def test_redirects_are_followed_to_public_places_and_not_for_ever() -> None:
    def answer(request: Asked) -> bytes:
        if request.target == "/end":
            return answered(b"x")
        host, port = request.headers["host"].split(":")
        number = int(request.target[1:])
        last = number == MAX_REDIRECTS - 1 and host == "few.example"
        following = f"http://other.example:{port}/end" if last else f"/{number + 1}"
        return answered(status=307, location=following)

    names = Names(few=[[PUBLIC]], many=[[PUBLIC]], other=[[PUBLIC]])
    async with site(answer) as (port, asked):
        found = await fetched(fetcher(names), f"http://few.example{port}/0")
        assert found == (b"x", "application/octet-stream")
        assert (asked[-1].headers["host"], asked[-1].target) == (f"other.example{port}", "/end")
        with pytest.raises(MediaUnavailable, match="redirected more than 5 times"):
            await fetched(fetcher(names), f"http://many.example{port}/0")


CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (answered(b"/srv/secret", 404), "got status 404"),
        (answered(status=500), "got status 500"),
        (answered(b"x", 206), "got status 206"),
        (answered(content_length="200000"), "MEDIA_FETCH_MAX_MB"),
        (answered(b"x" * 200_000), "MEDIA_FETCH_MAX_MB"),
        (CHUNKED + b"30d40\r\n" + b"x" * 200_000, "MEDIA_FETCH_MAX_MB"),
        (answered(b"x" * 90_000), "MAX_BODY_MB"),
        (answered(gzip.compress(bytes(10**6)), content_encoding="gzip"), "compressed"),
        (answered(b"x", content_encoding="br"), "compressed"),
        (answered(status=302), "redirected more than"),
        (answered(content_length="x"), "could not be fetched"),
        (answered(b"x", content_length="2"), "could not be fetched"),
        (CHUNKED + b"2\r\nx", "could not be fetched"),
        (CHUNKED + b"1\r\nx\r\nzz\r\nsecret\r\n", "could not be fetched"),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100_000, "could not be fetched"),
        (b"HTTP/1.1 200 OK\r\na: " + b"b" * 1_000_000, "could not be fetched"),
        (b"secret\r\n\r\n", "could not be fetched"),
        (b"", "could not be fetched"),
    ],
)
async def test_what_is_not_a_file_of_fitting_size_is_refused_with_the_reason(
    answer: bytes, reason: str
) -> None:
    one = fetcher(Names(example=[[PUBLIC]]))
    async with site(lambda _: answer) as (port, _):
        with pytest.raises(MediaUnavailable, match=reason) as failed:
            await fetched(one, f"http://example.com{port}/", budget=100_000)
    assert failed.value.param == PARAM
    assert "secret" not in failed.value.message


async def test_what_is_packed_is_not_unpacked() -> None:
    """A file that is an archive is one; a decompression bomb stays as small as it came."""
    packed = gzip.compress(bytes(10**7))
    async with site(lambda _: answered(packed, content_type="image/svg+xml")) as (port, _):
        found = await fetched(fetcher(Names(example=[[PUBLIC]])), f"http://example.com{port}/")
    assert found == (packed, "image/svg+xml")


async def test_a_file_that_is_said_to_be_as_it_is_comes() -> None:
    async with site(lambda _: answered(b"x", content_encoding="Identity")) as (port, _):
        found = await fetched(fetcher(Names(example=[[PUBLIC]])), f"http://example.com{port}/")
    assert found[0] == b"x"


@pytest.mark.parametrize(
    ("named", "used"),
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
    named: str, used: str
) -> None:
    async with site(lambda _: answered(b"x", content_type=named)) as (port, _):
        found = await fetched(fetcher(Names(example=[[PUBLIC]])), f"http://example.com{port}/")
    assert found[1] == used


async def test_an_address_that_takes_no_connection_is_followed_by_the_next() -> None:
    async with site(lambda _: answered(b"x")) as (port, asked):
        one = fetcher(Names(example=[[OTHER_PUBLIC, PUBLIC]], alone=[[OTHER_PUBLIC]]))
        await fetched(one, f"http://example.com{port}/")
        assert len(asked) == 1
        with pytest.raises(MediaUnavailable, match="could not be fetched"):
            await fetched(one, f"http://alone.example{port}/")


async def test_whatever_leads_to_an_address_that_is_not_public_no_socket_is_made_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if the client of HTTP went its own ways."""
    canary: list[Asked] = []

    async def caught(asked: Asked, *_: object) -> None:
        canary.append(asked)

    async with server(caught, "127.0.0.2") as port:
        own_ways = fetch_module._Vetted(["127.0.0.2"])
        monkeypatch.setattr(fetch_module, "_Vetted", lambda _: own_ways)
        names = Names(example=[[PUBLIC]], **{"127": [[PUBLIC]]})
        for host in ("example.com", "127.0.0.2"):
            with pytest.raises(MediaUnavailable, match="could not be fetched"):
                await fetched(fetcher(names), f"http://{host}:{port}/")
    assert canary == []


async def test_a_connection_goes_to_the_judged_address_and_a_redirect_to_no_other() -> None:
    canary: list[Asked] = []

    async def caught(asked: Asked, *_: object) -> None:
        canary.append(asked)

    async with server(caught, "127.0.0.2") as secret:
        names = Names(outside=[[PUBLIC]], inside=[["127.0.0.2"]])
        away = answered(status=302, location=f"http://inside.example:{secret}/")
        async with site(lambda _: away) as (port, _):
            with pytest.raises(MediaRefused):
                await fetched(fetcher(names), f"http://outside.example{port}/")
            with pytest.raises(MediaRefused):
                await fetched(fetcher(names), f"http://inside.example:{secret}/")
    assert names.asked == ["outside.example", "inside.example", "inside.example"]
    assert canary == []


async def test_a_file_without_an_end_or_a_server_without_a_word_ends_in_time() -> None:
    async def drip(_: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async def flood(_: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    async def silent(_: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    names = Names(example=[[PUBLIC]])
    for reply, seconds, reason in (
        (drip, 0.3, "within"),
        (silent, 0.3, "within"),
        (flood, PATIENCE, "larger than"),
    ):
        async with server(reply) as port, asyncio.timeout(PATIENCE):
            with pytest.raises(MediaUnavailable, match=reason):
                await fetched(fetcher(names, seconds=seconds), f"http://example.com:{port}/")


async def test_no_more_are_fetched_at_a_time_than_the_limit() -> None:
    running, most = 0, 0

    async def slow(_: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        writer.write(answered(b"x"))

    names = Names(example=[[PUBLIC]])
    async with server(slow) as port:
        one = fetcher(names, at_once=2)
        await asyncio.gather(*(fetched(one, f"http://example.com:{port}/") for _ in range(10)))
    assert most == 2


async def test_waiting_for_others_counts() -> None:
    visits, over = 0, asyncio.Event()

    async def silent(_: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal visits
        visits += 1
        await over.wait()

    names = Names(example=[[PUBLIC]])
    async with server(silent) as port:
        one = fetcher(names, at_once=1, seconds=0.3)
        url = f"http://example.com:{port}/"
        late = await asyncio.gather(*(fetched(one, url) for _ in range(9)), return_exceptions=True)
        over.set()
    assert all(isinstance(result, RequestFailure) for result in late), late
    assert visits < 9, "each had its time while it waited for the one before"


@pytest.mark.parametrize("size", [1, 2, 3, 49_152, 100_001])
def test_a_file_in_tiny_pieces_takes_no_more_memory_than_in_one(size: int) -> None:
    file, data = File("image/png"), bytes(range(256)) * 400
    for at in range(size):
        file.add(data[at : at + 1])
    head, *pieces = file.as_data_url()
    assert head == b"data:image/png;base64,"
    assert b64decode(b"".join(pieces), validate=True) == data[:size]
    assert len(pieces) <= size // 49_152 + 1


# TLS ------------------------------------------------------------------------------------------


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
    """Each host is asked by its own name, also where both are at one address."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    hosts: list[str | None] = []
    context.sni_callback = lambda _, host, __: hosts.append(host)

    async def reply(_: Asked, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answered(b"x"))

    names = Names(right=[[PUBLIC]], wrong=[[PUBLIC]])
    async with server(reply, ssl=context) as port:
        one = fetcher(names)
        assert (await fetched(one, f"https://right.example:{port}/"))[0] == b"x"
        with pytest.raises(MediaUnavailable, match="could not be fetched"):
            await fetched(one, f"https://wrong.example:{port}/")
        with pytest.raises(MediaUnavailable, match="could not be fetched"):
            await fetched(one, f"https://{PUBLIC}:{port}/")
    assert hosts == ["right.example", "wrong.example", None]
