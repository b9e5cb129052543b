"""Which headers travel on, and how a request keeps its identities."""

from __future__ import annotations

import re

import pytest

from proxy.relay.headers import request_id, to_client, to_upstream, traceparent
from proxy.server.request import Headers

HOST, ID = b"127.0.0.1:8001", b"id-1"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
HOP_BY_HOP = (
    *(b"connection", b"proxy-connection", b"keep-alive", b"proxy-authenticate"),
    *(b"proxy-authorization", b"te", b"trailer", b"transfer-encoding", b"upgrade"),
)
OURS: Headers = [(b"accept-encoding", b"identity"), (b"x-request-id", ID)]
END_TO_END: Headers = [
    (b"authorization", b"Bearer key"),
    (b"content-type", b"application/json; charset=utf-8"),
    (b"accept", b"text/event-stream"),
    (b"traceparent", b"00-x"),
    (b"cookie", b"a=1"),
    (b"cookie", b"b=2"),
    (b"x-empty", b""),
    (b"x-bytes", b"caf\xe9"),
]


def test_end_to_end_headers_reach_the_engine_in_order_and_unchanged() -> None:
    given = [(b"host", b"api.example.org"), *END_TO_END]
    assert to_upstream(given, HOST, ID) == [(b"host", HOST), *END_TO_END, *OURS]


def test_end_to_end_headers_reach_the_client_in_order_and_unchanged() -> None:
    given = [*END_TO_END, (b"content-length", b"5"), (b"server", b"uvicorn"), (b"date", b"now")]
    assert to_client(given, ID) == [*given, (b"x-request-id", ID)]


@pytest.mark.parametrize("name", HOP_BY_HOP)
def test_hop_by_hop_headers_stay_on_their_hop(name: bytes) -> None:
    assert name not in dict(to_upstream([(name, b"x")], HOST, ID))
    assert name not in dict(to_client([(name, b"x")], ID))


@pytest.mark.parametrize(
    "connection", [b"close, X-Hop", b"x-hop", b" X-HOP ,keep-alive", b",x-hop"]
)
def test_what_connection_names_stays_on_its_hop_too(connection: bytes) -> None:
    given = [(b"connection", connection), (b"x-hop", b"1"), (b"x-stays", b"2")]
    assert to_client(given, ID) == [(b"x-stays", b"2"), (b"x-request-id", ID)]
    assert (b"x-hop", b"1") not in to_upstream(given, HOST, ID)
    assert (b"x-stays", b"2") in to_upstream(given, HOST, ID)


def test_several_connection_headers_all_count() -> None:
    given = [(b"connection", b"x-a"), (b"connection", b"x-b"), (b"x-a", b""), (b"x-b", b"")]
    assert to_client(given, ID) == [(b"x-request-id", ID)]


@pytest.mark.parametrize(
    "name", [b"host", b"content-length", b"expect", b"x-request-id", b"accept-encoding"]
)
def test_the_engine_gets_the_sidecars_own_and_not_twice(name: bytes) -> None:
    sent = to_upstream([(name, b"clients")], HOST, ID)
    assert (name, b"clients") not in sent
    names = [key for key, _ in sent]
    assert len(names) == len(set(names))


def test_the_engines_own_request_id_is_passed_on() -> None:
    given = [(b"x-request-id", b"engines")]
    assert to_client(given, ID) == given


@pytest.mark.parametrize(
    "given", [b"a", b"abc-123_x.y:z", b"0" * 128, b"7f2c1a34-9d1e-4c57-8f57-0a1b2c3d4e5f"]
)
def test_a_sane_request_id_is_kept(given: bytes) -> None:
    assert request_id({b"x-request-id": given}) == given


@pytest.mark.parametrize(
    "given",
    [b"", b"a" * 129, b"a b", b"a\nb", b"a\n", b"a\x00", b"a/b", b'"', b"caf\xe9", b"<x>", b"%0a"],
)
def test_any_other_request_id_is_replaced_by_a_new_one(given: bytes) -> None:
    made = request_id({b"x-request-id": given})
    assert re.fullmatch(rb"[0-9a-f]{32}", made)


def test_no_two_requests_get_the_same_id() -> None:
    assert len({request_id({}) for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    ("given", "is_sane"),
    [
        (f"00-{TRACE}-00f067aa0ba902b7-01", True),
        (f"01-{TRACE}-00f067aa0ba902b7-00", True),
        ("", False),
        (f"00-{TRACE.upper()}-00f067aa0ba902b7-01", False),
        (f"00-{TRACE}-00f067aa0ba902b7", False),
        (f"00-{TRACE}-00f067aa0ba902b7-01\n", False),
        (f"ff-{TRACE}-00f067aa0ba902b7-01", False),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
    ],
)
def test_a_trace_is_the_clients_and_never_invented(given: str, is_sane: bool) -> None:
    assert traceparent({b"traceparent": given.encode()}) == (given if is_sane else None)
    assert traceparent({}) is None


def test_the_headers_of_a_span_stand_for_the_clients_trace() -> None:
    given = [(b"traceparent", b"theirs"), (b"tracestate", b"a=1"), (b"x", b"y")]
    span = [(b"traceparent", b"ours")]
    assert to_upstream(given, HOST, ID, span)[1:-2] == [(b"x", b"y"), *span]
    assert to_upstream(given, HOST, ID)[1:-2] == given
