"""A network of its own: a name server that lies, a server with a public address, what is private.

Run by test_rebinding.py within namespaces (`unshare -rmn`), where this machine has a public address
too and /etc/resolv.conf names our server. Nothing in the sidecar is replaced: it is a process, its
resolver is the system's. Prints one JSON object: what happened in each
case, and that a naive client is led inside.
"""

from __future__ import annotations

import fcntl
import json
import socket
import struct
import sys
import tempfile
import threading
from base64 import b64encode
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE
from tests.rebinding.name_server import Answer, NameServer
from tests.wire.client import CHAT
from tests.wire.service import Sidecar

PUBLIC, PORT = "93.184.215.14", 8080
PRIVATE = ("127.0.0.1", "::1")
NAME = "pictures.example"
PICTURE = bytes(range(256)) * 4
_SIOCSIFADDR, _SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8916, 0x8913, 0x8914, 1

# Case -> the path that is asked for, and what the name is at one look-up after the other.
CASES: dict[str, tuple[str, list[Answer]]] = {
    "public, then private": ("/x.png", [[PUBLIC], ["127.0.0.1"]]),
    "public, then private over IPv6": ("/x.png", [[PUBLIC], ["::1"]]),
    "private, then public": ("/x.png", [["127.0.0.1"], [PUBLIC]]),
    "both at once": ("/x.png", [[PUBLIC, "127.0.0.1"]]),
    "public over IPv4, private over IPv6": ("/x.png", [[PUBLIC, "::1"]]),
    "metadata": ("/x.png", [["169.254.169.254"]]),
    "a redirect to itself, private by then": ("/again", [[PUBLIC], ["127.0.0.1"]]),
    "a redirect to itself, public still": ("/again", [[PUBLIC], [PUBLIC], ["127.0.0.1"]]),
    "no address": ("/x.png", [[]]),
}


class _Visit(BaseHTTPRequestHandler):
    """Sends a picture; counts who comes."""

    def do_GET(self) -> None:
        self.server.visits.append((self.path, self.headers["host"]))  # type: ignore[attr-defined]
        away = self.path == "/again"
        self.send_response(302 if away else 200)
        if away:
            self.send_header("location", "/x.png")
        self.send_header("content-type", "image/png")
        self.send_header("content-length", "0" if away else str(len(PICTURE)))
        self.end_headers()
        if not away:
            self.wfile.write(PICTURE)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Web(ThreadingHTTPServer):
    """A server of pictures at one address."""

    daemon_threads = True

    def __init__(self, address: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.visits: list[tuple[str, str]] = []
        super().__init__((address, PORT), _Visit)
        threading.Thread(target=self.serve_forever, daemon=True).start()


def give_addresses() -> None:
    """Loopback, and a public address on it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, asked), 16)
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
        packed = socket.inet_aton(PUBLIC)
        new = struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, packed)
        fcntl.ioctl(any_socket, _SIOCSIFADDR, new)


def tried(service: Sidecar, names: NameServer, web: Web, inside: list[Web], case: str) -> Any:
    """What came of one URL."""
    path, answers = CASES[case]
    names.answers(*answers)
    web.visits.clear()
    url = f"http://{NAME}:{PORT}{path}"
    text = json.dumps({"messages": [{"role": "user", "content": [{"image_url": {"url": url}}]}]})
    answer = service.ask(CHAT, text.encode())
    meant = text.replace(url, f"data:image/png;base64,{b64encode(PICTURE).decode()}").encode()
    return {
        "status": answer.status,
        "code": (answer.json().get("error") or {}).get("code"),
        "lookups": list(names.lookups),
        "visits": list(web.visits),
        "inside": [visit for each in inside for visit in each.visits],
        "engine": [got.body_sha256 == sha256(meant).hexdigest() for got in service.seen(answer)],
    }


def naive(names: NameServer, inside: list[Web]) -> int:
    """How often a client that checks a name first, and asks by the name then, is led inside."""
    names.answers([PUBLIC], ["127.0.0.1"])
    before = sum(len(each.visits) for each in inside)
    checked = socket.getaddrinfo(NAME, PORT)[0][4][0]
    with urlopen(f"http://{NAME}:{PORT}/x.png", timeout=PATIENCE) as answer:
        answer.read()
    return sum(len(each.visits) for each in inside) - before if checked == PUBLIC else 0


def main() -> None:
    give_addresses()
    names, web, inside = NameServer(), Web(PUBLIC), [Web(address) for address in PRIVATE]
    folder = tempfile.mkdtemp()
    with FakeEngine("--disable-uvicorn-access-log") as engine, Sidecar(Path(folder), engine) as one:
        one.wait_for("ready", PATIENCE)
        cases = {case: tried(one, names, web, inside, case) for case in CASES}
        json.dump({"cases": cases, "naive": naive(names, inside)}, sys.stdout)
        one.process.kill()


if __name__ == "__main__":
    main()
