"""Who may load, unload and pin models: a key of `ADMIN_KEYS`, or, without any, this machine.

A request is from this machine where nothing speaks against it: its peer and its `Host` are
loopback, no proxy has passed it on, and no web page of another origin has sent it. Browsers send
`Origin` with every POST, and pages cannot change it (https://fetch.spec.whatwg.org/#origin-header).
A key needs no such rule: no browser sends it unless the page has it.
"""

from __future__ import annotations

from proxy.access.hosts import host_of
from proxy.access.keys import Keys, is_loopback
from proxy.errors import AdminOnly, Unauthorized
from proxy.server.request import Request
from proxy.settings import Settings

THIS_MACHINE = "this machine"
_FORWARDED = frozenset(
    {
        b"cdn-loop",
        b"client-ip",
        b"fastly-client-ip",
        b"forwarded",
        b"true-client-ip",
        b"via",
        b"x-client-ip",
        b"x-cluster-client-ip",
        b"x-original-forwarded-for",
        b"x-real-ip",
    }
)
_FORWARDED_BEGINNINGS = (b"x-forwarded", b"cf-", b"x-envoy-")
_OWN_SITE = (b"same-origin", b"none")


class Admins:
    def __init__(self, settings: Settings) -> None:
        self._keys = Keys(settings, of_admins=True)

    def label_of(self, request: Request) -> str | None:
        """The label of the admin key in a request; None where it has none."""
        try:
            return self._keys.owner(request.named) if self._keys.all else None
        except Unauthorized:
            return None

    def check(self, request: Request) -> str:
        """The label of the admin key in a request, or `THIS_MACHINE`.

        Raises:
            Unauthorized: there are admin keys, and it has none of them.
            AdminOnly: there are none, and it is not from this machine.
        """
        if self._keys.all:
            if (label := self.label_of(request)) is None:
                raise Unauthorized(
                    "This needs a key of ADMIN_KEYS. Send it as Authorization: Bearer KEY, or as"
                    " x-api-key: KEY."
                )
            return label
        if (reason := _stranger(request)) is not None:
            raise AdminOnly(
                "Without ADMIN_KEYS only this machine may do this, and this request"
                f" {reason}. Set ADMIN_KEYS, and send one of them."
            )
        return THIS_MACHINE


def _stranger(request: Request) -> str | None:
    """Why a request may be of somebody elsewhere."""
    named = request.named
    if not is_loopback(request.client or ""):
        return "came from another one"
    # A plain nginx adds no header; it asks by HTTP/1.0.
    if request.version == "1.0" or any(
        header in _FORWARDED or header.startswith(_FORWARDED_BEGINNINGS) for header in named
    ):
        return "came through a proxy"
    host = named.get(b"host", b"").lower()
    if not is_loopback(host_of(host)):
        return "asks for another host than localhost"
    own = (b"http://" + host, b"https://" + host)
    if named.get(b"origin", own[0]).lower() not in own:
        return "was sent by a web page of another origin"
    if named.get(b"sec-fetch-site", b"none") not in _OWN_SITE:
        return "was sent by a web page of another site"
    return None
