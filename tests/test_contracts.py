"""What is used of libraries is there, by its name: a version without it fails here, and says so."""

from __future__ import annotations

import inspect
from importlib import import_module
from importlib.metadata import version
from typing import Any

import pytest

# Module -> names in it; `Class.name` is an attribute, `Class(name)` a parameter.
WEBSOCKETS = {
    "websockets.asyncio.client": (
        "ClientConnection.close",
        "ClientConnection.recv",
        "ClientConnection.send",
        "ClientConnection.subprotocol",
        "connect(additional_headers)",
        "connect(compression)",
        "connect(max_queue)",
        "connect(max_size)",
        "connect(open_timeout)",
        "connect(ping_interval)",
        "connect(proxy)",
        "connect(subprotocols)",
        "connect(user_agent_header)",
        "connect(write_limit)",
        "connect.process_redirect",
    ),
    "websockets.datastructures": ("Headers.get_all", "Headers.raw_items", "Headers.setdefault"),
    "websockets.exceptions": (
        "ConnectionClosed(rcvd)",
        "ConnectionClosed(sent)",
        "InvalidHandshake",
        "InvalidStatus(response)",
        "PayloadTooBig",
    ),
    "websockets.frames": (
        "Close(code)",
        "Close(reason)",
        "CloseCode.ABNORMAL_CLOSURE",
        "CloseCode.GOING_AWAY",
        "CloseCode.INTERNAL_ERROR",
        "CloseCode.INVALID_DATA",
        "CloseCode.MESSAGE_TOO_BIG",
        "CloseCode.NORMAL_CLOSURE",
        "CloseCode.NO_STATUS_RCVD",
        "CloseCode.PROTOCOL_ERROR",
        "CloseCode.SERVICE_RESTART",
        "CloseCode.TLS_HANDSHAKE",
        "Frame(data)",
        "Frame(fin)",
        "Frame(opcode)",
        "Opcode.CLOSE",
        "Opcode.CONT",
        "Opcode.PING",
        "Opcode.PONG",
        "Opcode.TEXT",
    ),
    "websockets.http11": (
        "Request(headers)",
        "Response(body)",
        "Response(headers)",
        "Response(reason_phrase)",
        "Response(status_code)",
    ),
    "websockets.protocol": ("State.OPEN",),
    "websockets.server": (
        "ServerProtocol(max_size)",
        "ServerProtocol.accept",
        "ServerProtocol.data_to_send",
        "ServerProtocol.events_received",
        "ServerProtocol.fail",
        "ServerProtocol.receive_data",
        "ServerProtocol.send_binary",
        "ServerProtocol.send_close",
        "ServerProtocol.send_response",
        "ServerProtocol.send_text",
        "ServerProtocol.state",
    ),
    "websockets.typing": ("Subprotocol",),
}
# Attributes that only an object has.
OF_A_SERVER_PROTOCOL = ("close_rcvd", "close_sent", "handshake_exc", "parser_exc")


def has(module: str, name: str) -> bool:
    place: Any = import_module(module)
    owner, _, parameter = name.rstrip(")").partition("(")
    for part in owner.split("."):
        if not hasattr(place, part):
            return False
        place = getattr(place, part)
    return not parameter or parameter in inspect.signature(place).parameters


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, names in WEBSOCKETS.items() for name in names]
)
def test_websockets_has_what_is_used_of_it(module: str, name: str) -> None:
    assert has(module, name), f"websockets {version('websockets')} has no {module} {name}"


@pytest.mark.parametrize("name", OF_A_SERVER_PROTOCOL)
def test_a_server_protocol_of_websockets_has_what_is_used_of_it(name: str) -> None:
    protocol = import_module("websockets.server").ServerProtocol()
    text = f"websockets {version('websockets')}: a ServerProtocol has no {name}"
    assert hasattr(protocol, name), text


async def test_a_client_of_websockets_can_be_cut_off() -> None:
    """Its own `close` waits for an engine that does not read."""
    client = import_module("websockets.client")
    uri = import_module("websockets.uri").parse_uri("ws://127.0.0.1:1")
    connection = import_module("websockets.asyncio.client").ClientConnection
    made = connection(client.ClientProtocol(uri))
    made.connection_made(import_module("unittest.mock").Mock())
    assert hasattr(made.transport, "abort")


@pytest.mark.parametrize("name", ["connect(nonsense)", "connect.nonsense", "nonsense"])
def test_what_is_not_there_is_seen(name: str) -> None:
    assert not has("websockets.asyncio.client", name)
