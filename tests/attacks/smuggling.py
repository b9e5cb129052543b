"""Bytes in which two servers see different requests: the second one must not come to the engine."""

from __future__ import annotations

KETTLE = "James Kettle, HTTP Desync Attacks, 2019"
HIDDEN = b"GET /sleep HTTP/1.1\r\nHost: x\r\n\r\n"
_POST = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
_GET = b"GET /v1/models HTTP/1.1\r\nHost: x\r\n"


def _length(value: bytes) -> bytes:
    return b"Content-Length: " + value + b"\r\n"


_CHUNKED = b"Transfer-Encoding: chunked\r\n"
_LEN = b"%d" % len(HIDDEN)

# Name -> (bytes, source). After each one the connection is read to its end.
ATTACKS: dict[str, tuple[bytes, str]] = {
    "CL.TE": (_POST + _length(b"5") + _CHUNKED + b"\r\n0\r\n\r\n" + HIDDEN, KETTLE),
    "TE.CL": (_POST + _CHUNKED + _length(b"4") + b"\r\n2\r\n{}\r\n0\r\n\r\n" + HIDDEN, KETTLE),
    "CL.CL": (_POST + _length(b"2") + _length(_LEN) + b"\r\n{}" + HIDDEN, "RFC 9112, 6.3"),
    "CL list": (_POST + _length(b"2, " + _LEN) + b"\r\n{}" + HIDDEN, "RFC 9112, 6.3"),
    "CL plus": (_POST + _length(b"+2") + b"\r\n{}" + HIDDEN, "RFC 9110, 8.6"),
    "CL minus": (_POST + _length(b"-2") + b"\r\n{}" + HIDDEN, "RFC 9110, 8.6"),
    "CL hex": (_POST + _length(b"0x2") + b"\r\n{}" + HIDDEN, "RFC 9110, 8.6"),
    "CL underscore": (_POST + _length(b"0_2") + b"\r\n{}" + HIDDEN, "CVE-2023-47627 (aiohttp)"),
    "CL huge": (_POST + _length(b"18446744073709551618") + b"\r\n{}" + HIDDEN, "own"),
    "CL empty": (_POST + _length(b"") + b"\r\n{}" + HIDDEN, "RFC 9110, 8.6"),
    "CL space": (_POST + b"Content-Length : 2\r\n\r\n{}" + HIDDEN, "RFC 9112, 5.1"),
    "CL folded": (_POST + b"Content-Length:\r\n 2\r\n\r\n{}" + HIDDEN, "RFC 9112, 5.2"),
    "TE space": (_POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + HIDDEN, KETTLE),
    "TE tab": (_POST + b"Transfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n" + HIDDEN, KETTLE),
    "TE vertical tab": (
        _POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        KETTLE,
    ),
    "TE x": (_POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + HIDDEN, KETTLE),
    "TE identity": (
        _POST + b"Transfer-Encoding: identity\r\n" + _length(b"2") + b"\r\n{}" + HIDDEN,
        KETTLE,
    ),
    "TE twice": (
        _POST + _CHUNKED + b"Transfer-Encoding: identity\r\n\r\n0\r\n\r\n" + HIDDEN,
        KETTLE,
    ),
    "TE list": (
        _POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
        "RFC 9112, 6.1",
    ),
    "TE folded": (_POST + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + HIDDEN, KETTLE),
    "TE quoted": (_POST + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n' + HIDDEN, KETTLE),
    "TE of HTTP/1.0": (
        _POST.replace(b"1.1", b"1.0") + _CHUNKED + b"\r\n0\r\n\r\n" + HIDDEN,
        "RFC 9112, 6.1",
    ),
    "chunk size, plus": (_POST + _CHUNKED + b"\r\n+2\r\n{}\r\n0\r\n\r\n" + HIDDEN, "RFC 9112, 7.1"),
    "chunk size, 0x": (_POST + _CHUNKED + b"\r\n0x2\r\n{}\r\n0\r\n\r\n" + HIDDEN, "RFC 9112, 7.1"),
    "chunk size, huge": (
        _POST + _CHUNKED + b"\r\n10000000000000002\r\n{}\r\n0\r\n\r\n" + HIDDEN,
        "own",
    ),
    "chunk extension with a line feed": (
        _POST + _CHUNKED + b"\r\n2;\n\r\n{}\r\n0\r\n\r\n" + HIDDEN,
        "Jeppe Bonde Weikop, Chunked extensions, 2025",
    ),
    "chunk without its end": (
        _POST + _CHUNKED + b"\r\n2\r\n{}xx0\r\n\r\n" + HIDDEN,
        "RFC 9112, 7.1",
    ),
    "trailer as a head": (_POST + _CHUNKED + b"\r\n0\r\n" + HIDDEN, "RFC 9112, 7.1.2"),
    "bare line feeds": (
        b"GET /v1/models HTTP/1.1\nHost: x\n\n" + HIDDEN.replace(b"\r\n", b"\n"),
        "RFC 9112, 2.2",
    ),
    "bare carriage return": (_GET + b"X: y\rGET /sleep HTTP/1.1\r\n\r\n" + HIDDEN, "RFC 9112, 2.2"),
    "null in a header": (_GET + b"X: y\x00\r\n\r\n" + HIDDEN, "RFC 9110, 5.5"),
    "space before a header": (_GET + b" Content-Length: 2\r\n\r\n" + HIDDEN, "RFC 9112, 2.2"),
    "header without a colon": (_GET + b"GET /sleep HTTP/1.1\r\n\r\n" + HIDDEN, "RFC 9112, 5"),
    "body of a GET": (_GET + _length(_LEN) + b"\r\n" + HIDDEN, KETTLE),
    "expect": (
        _POST + b"Expect: 100-continue\r\n" + _length(b"2") + b"\r\n{}" + HIDDEN,
        "Thomas Stacey, Expect desync, 2025",
    ),
    "upgrade": (
        _GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + HIDDEN,
        "Mikhail Egorov, WebSocket smuggling, 2019",
    ),
    "h2c": (
        _GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n" + HIDDEN,
        "Jake Miller, h2c Smuggling, 2020",
    ),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN, "RFC 9113, 3.4"),
    "CONNECT": (b"CONNECT 127.0.0.1:8001 HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN, "RFC 9110, 9.3.6"),
    "pipelined": (_GET + b"\r\n" + HIDDEN, "RFC 9112, 9.3.2"),
    "space in the target": (
        b"GET /v1/models HTTP/1.1 /sleep HTTP/1.1\r\nHost: x\r\n\r\n" + HIDDEN,
        "RFC 9112, 3",
    ),
    "HTTP/0.9": (b"GET /sleep\r\n" + HIDDEN, "RFC 9112"),
}
