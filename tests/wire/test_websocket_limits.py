"""Sessions of clients that send or take what nobody should hold: told, bounded, and logged once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from tests.fake_engine import FakeEngine
from tests.fake_engine.realtime import MAX_MESSAGE_BYTES
from tests.patience import PATIENCE
from tests.wire.client import Client, new_id, request
from tests.wire.service import Sidecar, ending, until
from tests.wire.test_websocket import HANDSHAKE, closed, session

MIB = 1024 * 1024
# Nobody takes what is sent: no byte has moved for so long.
_STANDSTILL_SECONDS = 3.0


def frame(opcode: int, data: bytes = b"", *, fin: bool = True) -> bytes:
    """As a client sends it."""
    return Frame(Opcode(opcode), data, fin).serialize(mask=True)


@contextmanager
def raw_session(service: Sidecar, *, receive_bytes: int = 0) -> Iterator[tuple[Client, str]]:
    """A session byte by byte, after the engine's greeting, and its request id."""
    with service.connect(receive_bytes=receive_bytes) as client:
        request_id = client.ask("/v1/realtime", headers=HANDSHAKE, method="GET")
        assert client.head().status == 101
        assert b"session.created" in receive(client)[1]
        yield client, request_id


def receive(client: Client) -> tuple[int, bytes]:
    """Opcode and payload of the next frame of the sidecar's."""
    first, length = client.exactly(2)
    if length == 126:
        length = int.from_bytes(client.exactly(2), "big")
    elif length == 127:
        length = int.from_bytes(client.exactly(8), "big")
    return first & 0x0F, client.exactly(length)


def close_code(client: Client) -> int:
    """Of the close frame that comes next; behind it the connection ends."""
    opcode, data = receive(client)
    assert opcode == Opcode.CLOSE
    assert client.rest() == b""
    return int.from_bytes(data[:2], "big")


def send_until_standstill(client: Client, data: bytes, most_bytes: int) -> int:
    """Send again and again, until nobody takes any more; returns how many bytes were taken."""
    connection = client._socket
    connection.settimeout(_STANDSTILL_SECONDS)
    taken = 0
    with suppress(TimeoutError):
        while taken < most_bytes:
            taken += connection.send(data[taken % len(data) :])
    connection.settimeout(PATIENCE)
    return taken


# What is no message ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(8, b"\x03\xe8\xff"), 1007),
        (b"\x81\x00", 1002),  # unmasked
        (b"\xc1\x80" + bytes(4), 1002),  # compressed, which was not agreed to
        (frame(1, b"x", fin=False) + frame(8, b"\x03\xe8"), 1002),
    ],
    ids=["no UTF-8 in a reason", "unmasked", "compressed", "closed inside a message"],
)
def test_what_is_no_message_closes_the_session_with_its_code(
    service: Sidecar, data: bytes, code: int
) -> None:
    """The engine's, which reads the frames: here they pass as they are."""
    with raw_session(service) as (client, request_id):
        client.send(data)
        assert close_code(client) == code
    assert ending(service.record(request_id)) == (101, "ok", None, None)


def test_compression_is_not_agreed_to(service: Sidecar) -> None:
    """What came would have to be held at a thousand times its size."""
    with session(service, compression="deflate") as (client, _):
        assert client.protocol.extensions == []
        assert client.response is not None
        assert "Sec-WebSocket-Extensions" not in client.response.headers


# Too much -------------------------------------------------------------------------------------


def test_a_message_that_is_too_large_for_the_engine_closes_the_session(service: Sidecar) -> None:
    """Its limit is no other with the sidecar in between, and who is still sending reads why."""
    with session(service) as (client, request_id):
        with suppress(ConnectionClosed):
            client.send(bytes(MAX_MESSAGE_BYTES + 1) + bytes(48 * MIB))
        end = closed(client).rcvd
        assert end is not None
        assert end.code == 1009
    assert ending(service.record(request_id)) == (101, "ok", None, None)


def test_who_reads_slowly_holds_up_the_engine_and_fills_no_memory(service: Sidecar) -> None:
    with raw_session(service, receive_bytes=4096) as (client, _):
        service.forget_peak()
        before = service.memory_mib()
        message = bytes(MIB)
        for _ in range(64):
            client.send(frame(2, message))
        client.send(frame(1, b"last"))
        for _ in range(64):
            assert receive(client) == (Opcode.BINARY, message)
        assert receive(client) == (Opcode.TEXT, b"last")
        assert service.memory_mib("VmHWM") - before < 40


def test_an_engine_that_does_not_read_holds_up_its_client_which_may_leave(service: Sidecar) -> None:
    with raw_session(service) as (client, request_id):
        client.send(frame(1, b"deaf"))
        taken = send_until_standstill(client, frame(2, bytes(64 * 1024)) * 8, 256 * MIB)
        assert taken < 256 * MIB
        client.reset()  # a FIN would come behind what nobody takes
        line = service.record(request_id)
    assert ending(line) == (101, "client_closed", "client", "client_closed")


def test_many_small_messages_all_arrive_in_their_order(service: Sidecar) -> None:
    numbers = [b"%d" % number for number in range(20_000)]
    with raw_session(service) as (client, request_id):
        client.send(b"".join(frame(1, number) for number in numbers))
        for number in numbers:
            assert receive(client) == (Opcode.TEXT, number)
        client.send(frame(8, b"\x03\xe8"))
        assert close_code(client) == 1000
    framed = sum(len(frame(1, number)) for number in numbers) + len(frame(8, b"\x03\xe8"))
    assert service.record(request_id)["bytes_in"] == framed


# Clients that leave ---------------------------------------------------------------------------


def test_who_leaves_while_waiting_for_a_place_gives_up_that_place(
    shared_engine: FakeEngine, tmp_path: Path
) -> None:
    shared_engine.reset()
    with Sidecar(tmp_path, shared_engine, MAX_IN_FLIGHT="1", MAX_WAITING="1") as service:
        service.wait_until_ready()
        with raw_session(service):
            leaver = service.connect()
            request_id = leaver.ask("/v1/realtime", headers=HANDSHAKE, method="GET")
            until(lambda: service.value("sidecar_requests_waiting") == 1, "one that waits")
            leaver.close()
            until(lambda: service.value("sidecar_requests_waiting") == 0, "nobody waits")
        line = service.record(request_id)
        assert ending(line) == (499, "client_closed", "client", "client_closed")
        assert service.seen(request_id) == []


def test_who_leaves_while_the_engine_does_not_answer_its_handshake_is_not_waited_for(
    service: Sidecar,
) -> None:
    client = service.connect()
    request_id = client.ask("/v1/realtime", headers=HANDSHAKE, method="GET", fake={"ws_status": 0})
    service.wait_until_seen(request_id)
    client.close()
    line = service.record(request_id)
    assert ending(line) == (499, "client_closed", "client", "client_closed")


def test_what_is_sent_before_the_session_begins_is_bounded(service: Sidecar) -> None:
    with service.connect() as client:
        request_id = client.ask(
            "/v1/realtime", headers=HANDSHAKE, method="GET", fake={"ws_status": 0}
        )
        service.wait_until_seen(request_id)
        with suppress(ConnectionError):
            client.send(frame(2, bytes(MIB)))
        line = service.record(request_id)
    assert ending(line) == (499, "client_closed", "client", "client_closed")


def test_a_message_behind_the_handshake_is_the_sessions_first(service: Sidecar) -> None:
    head = request("/v1/realtime", headers=HANDSHAKE, method="GET", request_id=new_id())
    with service.connect() as client:
        client.send(head + frame(1, b"early"))
        assert client.head().status == 101
        assert b"session.created" in receive(client)[1]
        assert receive(client) == (Opcode.TEXT, b"early")


def test_a_client_that_does_not_answer_a_close_frame_is_not_kept(service: Sidecar) -> None:
    with raw_session(service) as (client, request_id):
        client.send(frame(1, b"close:1000:"))
        assert receive(client)[0] == Opcode.CLOSE
        assert client.rest() == b""
        assert service.record(request_id)["outcome"] == "ok"
