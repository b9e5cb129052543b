"""What is used of libraries is there, by its name: a version without it fails here, and says so."""

from __future__ import annotations

import inspect
from dataclasses import fields
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from proxy.models.hub_cache import RepoCache

# Package -> module -> names in it; `Class.name` is an attribute, `Class(name)` a parameter, and
# `Class.name(other)` one of a method.
USED: dict[str, dict[str, tuple[str, ...]]] = {
    "aiohttp": {
        "aiohttp": (
            "AddrInfoType",
            "ClientError",
            "ClientResponse.content_length",
            "ClientResponse.headers",
            "ClientSession(auto_decompress)",
            "ClientSession(connector)",
            "ClientSession(cookie_jar)",
            "ClientSession(headers)",
            "ClientSession(timeout)",
            "ClientSession(trust_env)",
            "ClientSession.get",
            "ClientTimeout(total)",
            "DummyCookieJar",
            "StreamReader.iter_any",
            "TCPConnector(force_close)",
            "TCPConnector(resolver)",
            "TCPConnector(socket_factory)",
            "TCPConnector(ssl)",
            "TCPConnector(use_dns_cache)",
        ),
        "aiohttp.abc": (
            "AbstractResolver.close",
            "AbstractResolver.resolve(family)",
            "AbstractResolver.resolve(host)",
            "AbstractResolver.resolve(port)",
            "ResolveResult",
        ),
        "aiohttp.http_exceptions": ("HttpProcessingError",),
    },
    "httptools": {
        "httptools": (
            "HttpParserError",
            "HttpParserInvalidURLError",
            "HttpParserUpgrade",
            "HttpRequestParser.feed_data",
            "HttpRequestParser.get_http_version",
            "HttpRequestParser.get_method",
            "HttpRequestParser.set_dangerous_leniencies",
            "HttpRequestParser.should_keep_alive",
            "HttpRequestParser.should_upgrade",
            "HttpResponseParser.feed_data",
            "HttpResponseParser.get_status_code",
            "HttpResponseParser.should_keep_alive",
            "parse_url",
        ),
    },
    "huggingface_hub": {
        "huggingface_hub": (
            "HfApi.model_info(revision)",
            "HfApi.model_info(timeout)",
            "get_cached_repo_tree(cache_dir)",
            "get_cached_repo_tree(revision)",
            "get_token",
            "hf_hub_download(cache_dir)",
            "hf_hub_download(revision)",
            "snapshot_download(allow_patterns)",
            "snapshot_download(cache_dir)",
            "snapshot_download(dry_run)",
            "snapshot_download(local_files_only)",
            "snapshot_download(revision)",
        ),
        "huggingface_hub.constants": ("DEFAULT_REVISION", "ENDPOINT", "HF_HUB_CACHE"),
        "huggingface_hub.errors": (
            "CachedRepoTreeNotFoundError",
            "DisabledRepoError",
            "FileMetadataError",
            "GatedRepoError",
            "HFValidationError",
            "HfHubHTTPError(response)",
            "HfHubHTTPError(server_message)",
            "LocalEntryNotFoundError",
            "OfflineModeIsEnabled",
            "RevisionNotFoundError",
        ),
        "huggingface_hub.hf_api": (
            "ModelInfo.__annotations__",
            "RepoSibling(rfilename)",
            "RepoFile",
        ),
    },
    "prometheus-client": {
        "prometheus_client": (
            "CollectorRegistry.collect",
            "CollectorRegistry.register",
            "Counter(registry)",
            "Gauge(registry)",
            "Gauge.set_function",
            "Metric(documentation)",
            "Metric(name)",
            "Metric(typ)",
            "disable_created_metrics",
        ),
        "prometheus_client.core": (
            "CounterMetricFamily.add_metric",
            "GaugeMetricFamily.add_metric",
        ),
        "prometheus_client.exposition": ("choose_encoder(accept_header)",),
        "prometheus_client.registry": ("Collector",),
        "prometheus_client.samples": (
            "Exemplar(labels)",
            "Exemplar(timestamp)",
            "Exemplar(value)",
            "Sample(exemplar)",
            "Sample(labels)",
            "Sample(name)",
            "Sample(timestamp)",
            "Sample(value)",
        ),
        "prometheus_client.utils": ("floatToGoString",),
    },
    "uvloop": {"uvloop": ("run",)},
    "yarl": {"yarl": ("URL(encoded)",)},
    "websockets": {
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
    },
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
    ("package", "module", "name"),
    [
        (package, module, name)
        for package, modules in USED.items()
        for module, names in modules.items()
        for name in names
    ],
)
def test_a_library_has_what_is_used_of_it(package: str, module: str, name: str) -> None:
    assert has(module, name), f"{package} {version(package)} has no {module} {name}"


def test_a_parser_of_httptools_can_be_told_to_ignore_what_comes_behind_the_end() -> None:
    """Version 0.6.2 lacks it. The answer to `Connection: close` is lost without it."""
    parser = import_module("httptools").HttpRequestParser(object())
    parser.set_dangerous_leniencies(lenient_data_after_close=True)
    parser.feed_data(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n")
    parser.feed_data(b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize("name", ["siblings", "sha"])
def test_what_a_hub_says_of_a_model_has_what_is_used_of_it(name: str) -> None:
    model = import_module("huggingface_hub.hf_api").ModelInfo(id="org/name")
    assert hasattr(model, name), f"huggingface_hub {version('huggingface_hub')}: no {name}"


@pytest.mark.parametrize("name", ["filename", "local_path", "file_size", "is_cached"])
def test_a_dry_run_of_a_download_has_what_is_used_of_it(name: str) -> None:
    file = import_module("huggingface_hub.file_download").DryRunFileInfo
    text = f"huggingface_hub {version('huggingface_hub')}: a DryRunFileInfo has no {name}"
    assert name in {each.name for each in fields(file)}, text


def test_the_cache_of_a_hub_has_the_names_that_are_used_of_it(tmp_path: Path) -> None:
    """Private to huggingface_hub: the folder of a repository, its blobs, and those not whole."""
    hub = import_module("huggingface_hub.file_download")
    ours = RepoCache(tmp_path, "org/name")
    assert hub.repo_folder_name(repo_id="org/name", repo_type="model") == ours.folder.name
    (ours.folder / "refs").mkdir(parents=True)
    ours.point_ref("main", "0" * 40)
    snapshot = ours.folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    found = hub.try_to_load_from_cache("org/name", "config.json", cache_dir=tmp_path)
    assert found == str(snapshot / "config.json")
    assert ours.find_snapshot("main") == snapshot


def test_unfinished_files_of_a_hub_have_the_names_that_are_looked_for() -> None:
    """What is written under another name would never be removed, nor counted."""
    source = inspect.getsource(import_module("huggingface_hub.file_download"))
    text = f"huggingface_hub {version('huggingface_hub')} names its unfinished files otherwise"
    assert '{uuid.uuid4().hex[:8]}.incomplete"' in source, text


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
