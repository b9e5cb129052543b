"""Who may order something for a model: keys of ADMIN_KEYS, or, without any, this machine."""

from __future__ import annotations

import pytest

from proxy.access.admins import THIS_MACHINE, Admins
from proxy.errors import AdminOnly, Unauthorized
from proxy.server.request import Request
from proxy.settings import Settings

HOST = b"localhost:8000"
KEYS = {"ADMIN_KEYS": "ops:sk-ops-0123456789", "API_KEYS": "alice:sk-alice-0123456789"}


def request(
    client: str | None = "127.0.0.1", version: str = "1.1", **headers: str | None
) -> Request:
    named = {
        "host": HOST.decode(),
        **{name.replace("_", "-"): each for name, each in headers.items()},
    }
    lines = [(name.encode(), each.encode()) for name, each in named.items() if each is not None]
    target = b"/models/demo/load"
    return Request(
        "POST", target, target, b"", lines, dict(reversed(lines)), version, client, 8000, 0.0
    )


@pytest.mark.parametrize(
    "local",
    [
        request(),
        request("::1", host="[::1]:8000"),
        request("127.0.0.2", host="127.0.0.1"),
        request(origin="http://localhost:8000", sec_fetch_site="same-origin"),
        request(origin="HTTP://LOCALHOST:8000"),
        request(sec_fetch_site="none"),
        request(user_agent="curl/8", accept="*/*"),
    ],
)
def test_without_admin_keys_this_machine_may(local: Request) -> None:
    assert Admins(Settings.load({})).check(local) == THIS_MACHINE
    assert Admins(Settings.load({})).label_of(local) is None, "and is no admin on other pages"


@pytest.mark.parametrize(
    ("stranger", "why"),
    [
        (request("10.0.0.7"), "came from another one"),
        (request("2001:db8::1"), "came from another one"),
        (request(None), "came from another one"),
        (request(x_forwarded_for="10.0.0.7"), "through a proxy"),
        (request(x_forwarded_proto="https"), "through a proxy"),
        (request(forwarded="for=10.0.0.7"), "through a proxy"),
        (request(via="1.1 caddy"), "through a proxy"),
        (request(x_real_ip="127.0.0.1"), "through a proxy"),
        (request(cf_connecting_ip="10.0.0.7"), "through a proxy"),
        (request(version="1.0"), "through a proxy"),
        (request(host="gpu.example.com"), "another host"),
        (request(host="localhost.example.com"), "another host"),
        (request(host="10.0.0.1:8000"), "another host"),
        (request(host=""), "another host"),
        (request(host=None), "another host"),
        (request(origin="http://evil.example"), "another origin"),
        (request(origin="http://localhost:3000"), "another origin"),
        (request(origin="null"), "another origin"),
        (request(origin=""), "another origin"),
        (request(sec_fetch_site="cross-site"), "another site"),
        (request(sec_fetch_site="same-site"), "another site"),
    ],
)
def test_without_admin_keys_nobody_else_may(stranger: Request, why: str) -> None:
    with pytest.raises(AdminOnly, match=f"{why}.*Set ADMIN_KEYS"):
        Admins(Settings.load({"CORS_ORIGINS": "http://evil.example"})).check(stranger)


def test_an_ordinary_key_is_no_substitute_for_this_machine() -> None:
    admins = Admins(Settings.load({"API_KEYS": KEYS["API_KEYS"]}))
    with pytest.raises(AdminOnly):
        admins.check(request("10.0.0.7", x_api_key="sk-alice-0123456789"))


def test_with_admin_keys_one_of_them_is_needed_wherever_the_request_comes_from() -> None:
    admins = Admins(Settings.load(KEYS))
    far = request("10.0.0.7", x_forwarded_for="1.2.3.4", authorization="Bearer sk-ops-0123456789")
    assert admins.check(far) == admins.label_of(far) == "ops"
    assert admins.check(request(x_api_key="sk-ops-0123456789")) == "ops"
    for poor in (request(), request(x_api_key="sk-alice-0123456789"), request(x_api_key="")):
        with pytest.raises(Unauthorized, match="key of ADMIN_KEYS"):
            admins.check(poor)
        assert admins.label_of(poor) is None
