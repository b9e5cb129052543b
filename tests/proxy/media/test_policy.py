"""Which URLs may be fetched."""

from __future__ import annotations

import json
import re
import socket

import pytest
from urllib3.util import parse_url

from proxy.errors import MediaRefused, MediaUnavailable
from proxy.media.policy import Policy, Target
from proxy.media.url_scan import find_urls
from tests.attacks.urls import NAMES, NO_URLS, REFUSED, written
from tests.scans import in_one_go

PARAM = "messages[0].content[1].image_url.url"
PORT = 4711


async def by_table(host: str, port: int) -> list[str]:
    """A resolver that knows the table, and reads addresses as the C library does."""
    if host in NAMES:
        return NAMES[host][0]
    if host in ("localhost", "localhost.localdomain"):
        return ["127.0.0.1", "::1"]
    found = socket.getaddrinfo(host, port, flags=socket.AI_NUMERICHOST, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


async def judged(policy: Policy, url: str) -> list[str]:
    """The addresses that a URL may be fetched from."""
    target = policy.target(url, PARAM)
    assert target is not None
    return await policy.addresses(target, PARAM)


@pytest.mark.parametrize("url", REFUSED)
async def test_an_attack_is_refused_and_the_parameter_named(url: str) -> None:
    with pytest.raises(MediaRefused) as refused:
        await judged(Policy(resolve=by_table), written(url, PORT))
    assert refused.value.param == PARAM
    assert refused.value.message.startswith(f"{PARAM} ")
    assert re.search("allowed|ALLOW|of the form", refused.value.message)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_name_is_refused_when_one_of_its_addresses_is_not_public(
    scheme: str, name: str
) -> None:
    with pytest.raises(MediaRefused, match="ALLOW_PRIVATE_MEDIA"):
        await judged(Policy(resolve=by_table), f"{scheme}://{name}/x.png")


@pytest.mark.parametrize("url", NO_URLS)
def test_what_has_no_scheme_for_us_has_none_for_the_engine(url: str) -> None:
    """`parse_url` is what vLLM's connector reads a URL with; ValueError is its 400."""
    body = b'{"messages":[{"content":[{"image_url":{"url":%b}}]}]}' % _json(written(url, PORT))
    assert in_one_go(find_urls("chat", body)).urls == []
    try:
        scheme = parse_url(written(url, PORT)).scheme
    except ValueError:
        return
    assert not (scheme or "").startswith("http")
    assert scheme != "file"


async def test_private_names_and_unknown_ones_are_refused_in_the_same_words() -> None:
    """Whoever asks learns of no name in a private network, and checks the name that he wrote."""
    policy, messages = Policy(resolve=by_table), set()
    for name in ("none.example.com", "metadata.google.internal", "mixed.example.com"):
        with pytest.raises(MediaRefused) as refused:
            await judged(policy, f"http://{name}/")
        messages.add(refused.value.message)
    (message,) = messages
    assert "does not resolve to a public address; check the name" in message


async def test_an_address_that_is_not_public_is_not_called_a_name() -> None:
    for host in ("127.0.0.1", "[::1]"):
        with pytest.raises(MediaRefused, match="does not lead to a public address; allowed"):
            await judged(Policy(resolve=by_table), f"http://{host}/")


@pytest.mark.parametrize("failure", [OSError, UnicodeError, TimeoutError, None])
async def test_a_name_that_does_not_resolve_is_told_as_such_where_there_is_nothing_to_hide(
    failure: type[Exception] | None,
) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        if failure is not None:
            raise failure
        return []

    for policy in (
        Policy(allow_private=True, resolve=resolve),
        Policy(["none.example.com"], resolve=resolve),
    ):
        with pytest.raises(MediaUnavailable) as failed:
            await judged(policy, "http://none.example.com/")
        reason = "names a host that does not resolve; check the name."
        assert failed.value.message == f"{PARAM} {reason}"


async def test_a_public_host_may_be_fetched_at_what_it_was_resolved_to() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        assert (host, port) == ("example.com", 8443)
        return ["93.184.215.14"]

    policy = Policy(resolve=resolve)
    target = policy.target("HTTPS://Example.com:8443/a b?q=1#f", PARAM)
    assert target == Target("https", "example.com", 8443, "/a b?q=1#f")
    assert target.authority == "example.com:8443"
    assert await policy.addresses(target, PARAM) == ["93.184.215.14"]


@pytest.mark.parametrize(
    ("url", "authority"),
    [
        ("http://example.com", "example.com"),
        ("http://example.com:80/", "example.com"),
        ("https://example.com:80/", "example.com:80"),
        ("http://a_b.example.com/", "a_b.example.com"),
        ("http://xn--mnchen-3ya.de/", "xn--mnchen-3ya.de"),
        ("http://[2606:2800::1]:81/", "[2606:2800::1]:81"),
        ("http://[2606:2800:0:0::1]/", "[2606:2800::1]"),
        ("http://8.8.8.8?x", "8.8.8.8"),
        ("http://3com.com/", "3com.com"),
        ("http://1.2.3.4.example/", "1.2.3.4.example"),
    ],
)
def test_a_url_of_the_usual_form_is_read(url: str, authority: str) -> None:
    target = Policy().target(url, PARAM)
    assert target is not None
    assert target.authority == authority


async def test_a_list_of_domains_leaves_only_these_and_still_no_private_address() -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["10.0.0.1"] if host == "minio.internal" else ["93.184.215.14"]

    policy = Policy(["Example.com", "minio.internal"], resolve=resolve)
    assert await judged(policy, "http://EXAMPLE.com/") == ["93.184.215.14"]
    for url in ("http://sub.example.com/", "http://example.com.evil.net/", "http://1.1.1.1/"):
        with pytest.raises(MediaRefused, match="ALLOWED_MEDIA_DOMAINS"):
            policy.target(url, PARAM)
    with pytest.raises(MediaRefused, match="ALLOW_PRIVATE_MEDIA"):
        await judged(policy, "http://minio.internal/")


async def test_private_addresses_are_open_when_they_are_allowed_and_tricks_are_not() -> None:
    policy = Policy(allow_private=True, resolve=by_table)
    assert await judged(policy, "http://127.0.0.1:1/") == ["127.0.0.1"]
    assert await judged(policy, "http://localhost/") == ["127.0.0.1", "::1"]
    for url in ("http://0177.0.0.1/", "http://a@127.0.0.1/"):
        with pytest.raises(MediaRefused):
            await judged(policy, url)


def test_a_local_file_is_the_engines_to_confine_where_a_folder_is_opened() -> None:
    assert Policy(allow_local_files=True).target("file:///media/x.png", PARAM) is None
    with pytest.raises(MediaRefused, match="ALLOWED_LOCAL_MEDIA_PATH"):
        Policy().target("file:///media/x.png", PARAM)


def _json(text: str) -> bytes:
    return json.dumps(text).encode()
