"""Request targets by which a server is made to serve what it should not."""

from __future__ import annotations

import re
from pathlib import Path

ORANGE = "Orange Tsai, Breaking Parser Logic, Black Hat 2018"
PAYLOADS = "PayloadsAllTheThings, Directory Traversal"
BYPASS = "HackTricks, 403 & 401 Bypasses"
RFC = "RFC 3986"
OWN = "own"

# vLLM's routes that are not relayed, as docs/security.md lists them: all in its source, whatever
# flags or variables turn them on. tests/fuzz/test_paths.py compares them with it.
_REFUSED = (
    (Path(__file__).parents[2] / "docs" / "security.md")
    .read_text()
    .partition("## Routes of vLLM that are refused")[2]
    .partition("\n## ")[0]
)
CONTROL = tuple(re.findall(r"`(/[^`]*)`", _REFUSED))
# Of these the sidecar has pages of its own under the same name; none of them asks that of vLLM.
OWN_PAGES = frozenset({"/health", "/metrics", "/openapi.json", "/ping", "/readyz"})

# How a control route may be disguised; {path} is one of CONTROL, {name} the same without its slash.
DISGUISES: dict[str, str] = {
    "{path}": OWN,
    "{path}/": BYPASS,
    "{path}//": BYPASS,
    "{path}/.": BYPASS,
    "{path}?": BYPASS,
    "{path}??": BYPASS,
    "{path}?x=1": OWN,
    "{path}#": BYPASS,
    "{path}#/v1/models": OWN,
    "{path};": ORANGE,
    "{path};/v1/models": ORANGE,
    "{path};x=y": ORANGE,
    "{path}%20": BYPASS,
    "{path}%09": BYPASS,
    "{path}%00": BYPASS,
    "{path}%0a": BYPASS,
    "{path}%0d%0ax:%20y": "CRLF injection, CWE-93",
    "{path}%23": BYPASS,
    "{path}%3f": BYPASS,
    "{path}.json": BYPASS,
    "{path}~": BYPASS,
    "{path}..;/": ORANGE,
    "//{name}": BYPASS,
    "///{name}": BYPASS,
    "/./{name}": BYPASS,
    "/.//{name}": BYPASS,
    "/%2e/{name}": BYPASS,
    "/%2f{name}": BYPASS,
    "/;/{name}": ORANGE,
    "/.;/{name}": ORANGE,
    "/..;/{name}": ORANGE,
    "/\\{name}": OWN,
    "\\{name}": OWN,
    "/%5c{name}": OWN,
    "{name}": RFC,
    "/../{name}": RFC + ", 5.2.4",
    "/v1/../{name}": RFC + ", 5.2.4",
    "/v1/models/../../{name}": RFC + ", 5.2.4",
    "/v1/models/x/../../../{name}": RFC + ", 5.2.4",
    "/v1/models/./../../{name}": RFC + ", 5.2.4",
    "/v1/models/..;/..;/{name}": ORANGE,
    "/v1/models/..%2f..%2f{name}": PAYLOADS,
    "/v1/models/..%2F..%2F{name}": PAYLOADS,
    "/v1/models/%2e%2e/%2e%2e/{name}": PAYLOADS,
    "/v1/models/%2E%2E/%2E%2E/{name}": PAYLOADS,
    "/v1/models/.%2e/.%2e/{name}": "CVE-2021-41773 (Apache)",
    "/v1/models/%%32%65%%32%65/{name}": "CVE-2021-42013 (Apache)",
    "/v1/models/%252e%252e/%252e%252e/{name}": PAYLOADS,
    "/v1/models/%252e%252e%252f{name}": PAYLOADS,
    "/v1/models/%c0%ae%c0%ae/{name}": PAYLOADS,
    "/v1/models/%c0%ae%c0%ae%c0%af{name}": "CVE-2000-0884 (IIS)",
    "/v1/models/%e0%80%ae%e0%80%ae/{name}": PAYLOADS,
    "/v1/models/%uff0e%uff0e/{name}": PAYLOADS,
    "/v1/models/..%5c..%5c{name}": PAYLOADS,
    "/v1/models\\..\\..\\{name}": PAYLOADS,
    "/v1/models/..%00/{name}": PAYLOADS,
    "/v1/models/%0a/../{name}": OWN,
    "/v1/models/x%3b/..%2f{name}": ORANGE,
    "/v1/models/x%3f/../{name}": OWN,
    "/v1/models/x%23/%2e%2e/{name}": OWN,
    "/v1/models%2f..%2f..%2f{name}": PAYLOADS,
    "/v1/chat/completions/../../../{name}": RFC + ", 5.2.4",
    "/v1/chat/completions/..%2f..%2f..%2f{name}": PAYLOADS,
    "/v1/responses/resp_1/../../../{name}": RFC + ", 5.2.4",
    "/v1/responses/resp_1%2f..%2f..%2f..%2f{name}": PAYLOADS,
    "/v1/responses/../{name}": RFC + ", 5.2.4",
    "http://127.0.0.1{path}": "RFC 9112, 3.2.2",
    "http://localhost:8001{path}": "RFC 9112, 3.2.2",
    "HTTP://x{path}": "RFC 9112, 3.2.2",
    "https://x{path}": "RFC 9112, 3.2.2",
    "http://x/v1/models/..{path}": "RFC 9112, 3.2.2",
    "http://x/v1/models@y{path}": OWN,
    "http://x?/v1/models{path}": OWN,
    "http:/{path}": OWN,
    "http:{path}": OWN,
    "file://{path}": OWN,
    "//x{path}": "RFC 3986, 4.2",
    "x:80{path}": OWN,
}

# Listed paths in a form that is not the listed one: none is relayed. One slash at the end is none.
TARGETS: dict[str, str] = {
    "": OWN,
    "/": OWN,
    "*": "RFC 9112, 3.2.4",
    "/v1": OWN,
    "/v1/": OWN,
    "v1/chat/completions": RFC,
    "/V1/chat/completions": RFC + ", 6.2.2.1",
    "/v1/Chat/completions": RFC + ", 6.2.2.1",
    "/v1/chat/COMPLETIONS": RFC + ", 6.2.2.1",
    "/v1/chat/completions//": BYPASS,
    "//v1/chat/completions": BYPASS,
    "/v1//chat/completions": BYPASS,
    "/v1/chat/completions\n": OWN,
    "/v1/chat/completions\x00": OWN,
    "/v1/chat/completions%00": BYPASS,
    "/v1/chat/completions%20": BYPASS,
    "/v1/chat/completions%0d%0a": OWN,
    "/v1/chat/completions;x": ORANGE,
    "/v1/chat;/completions": ORANGE,
    "/v1/chat/./completions": RFC + ", 5.2.4",
    "/v1/chat/../chat/completions": RFC + ", 5.2.4",
    "/v1/%63hat/completions": RFC + ", 6.2.2.2",
    "/v1/chat%2fcompletions": PAYLOADS,
    "/v1%2Fchat%2Fcompletions": PAYLOADS,
    "/v1\\chat\\completions": OWN,
    "/v1/chat/completions%23": OWN,
    "/v1/chat/completions%3fx": OWN,
    "/v1/chat/ｃompletions": OWN,
    "/v1/models//x": BYPASS,
    "/v1/models/..": RFC + ", 5.2.4",
    "/v1/models/.": RFC + ", 5.2.4",
    "/v1/models/%2e": PAYLOADS,
    "/v1/models/%2e%2e": PAYLOADS,
    "/v1/models/%2f": PAYLOADS,
    "/v1/models/./x": RFC + ", 5.2.4",
    "/v1/models/x%2f": PAYLOADS,
    "/v1/models/x%2f%2fy": PAYLOADS,
    "/v1/models/x\n": OWN,
    "/v1/models/x;y": ORANGE,
    "/v1/models/x%3by": ORANGE,
    "/v1/models/x%7f": OWN,
    "/v1/models/x%ff": OWN,
    "/v1/models/x%": OWN,
    "/v1/models/x%2": OWN,
    "/v1/models/x%zz": OWN,
    "/v1/models/x%25": PAYLOADS,
    "/v1/responses/..": RFC + ", 5.2.4",
    "/v1/responses/render": "vLLM 0.32, beside the ids of responses",
    "/v1/responses/resp_a/b": OWN,
    "/v1/responses/resp_a/cancel/c": OWN,
    "/v1/responses/resp_a%2F..%2F..": PAYLOADS,
    "/v1/responses/resp_a/../../pause": RFC + ", 5.2.4",
    "//chat/completions": BYPASS,
    "/completions%20": BYPASS,
    "/v1/../completions": RFC + ", 5.2.4",
    "/generate%00": BYPASS,
    "/v1/generate": OWN,
    "/generate_stream;x": ORANGE,
    "/v1/audio/": OWN,
    "/v1/audio/other": OWN,
}

# Headers that some servers take for the target or the method.
HEADERS: dict[tuple[str, str], str] = {
    ("host", "127.0.0.1:8001"): "PortSwigger, Host header attacks",
    ("host", "localhost"): "PortSwigger, Host header attacks",
    ("host", ""): "RFC 9112, 3.2",
    ("host", "x@127.0.0.1"): "PortSwigger, Host header attacks",
    ("host", "/sleep"): OWN,
    ("x-original-url", "/sleep"): "CVE-2018-14773 (Symfony)",
    ("x-rewrite-url", "/sleep"): "CVE-2018-14773 (Symfony)",
    ("x-forwarded-host", "127.0.0.1:8001"): "PortSwigger, Host header attacks",
    ("x-forwarded-prefix", "/sleep"): BYPASS,
    ("x-forwarded-path", "/sleep"): BYPASS,
    ("x-forwarded-for", "127.0.0.1"): BYPASS,
    ("x-original-uri", "/sleep"): BYPASS,
    ("x-http-method-override", "POST"): BYPASS,
    ("x-middleware-subrequest", "middleware"): "CVE-2025-29927 (Next.js)",
    ("forwarded", "for=127.0.0.1;host=127.0.0.1"): "RFC 7239",
    ("via", "1.1 127.0.0.1"): OWN,
    ("referer", "http://127.0.0.1/sleep"): BYPASS,
    ("upgrade", "h2c"): "Jake Miller, h2c Smuggling, 2020",
    ("connection", "upgrade, http2-settings"): "Jake Miller, h2c Smuggling, 2020",
    ("connection", "host"): "Nathan Davison, hop-by-hop headers, 2019",
}


def disguised(path: str, disguise: str) -> str:
    """A control route, written in another way."""
    return disguise.format(path=path, name=path[1:])
