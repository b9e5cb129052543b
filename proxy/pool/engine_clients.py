"""What asks one engine: connections for requests, and a probe for questions of the sidecar."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from proxy.relay.unix_transport import UnixTransport
from proxy.relay.upstream import Upstream
from proxy.settings import Settings
from proxy.vllm.engine_socket import EngineSocket
from proxy.vllm.probe import Probe


class EngineClients:
    """By TCP, or, of an engine that may sleep, by a Unix socket that nobody else may reach."""

    def __init__(self, settings: Settings, retry_after: Callable[[], int | None]) -> None:
        """`retry_after` returns the seconds until an engine that is gone may be back.

        Raises:
            SettingsError: there is no place for the socket.
        """
        url = urlsplit(settings.upstream_url or f"http://127.0.0.1:{settings.upstream_port}")
        host, port = url.hostname or "127.0.0.1", url.port or 80
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        self.socket = EngineSocket() if settings.sleeps else None
        """None: the engine listens at an address."""
        uds = str(self.socket.path) if self.socket else None
        self.upstream = Upstream(host, port, authority, uds=uds, retry_after=retry_after)
        transport = UnixTransport(uds) if uds else None
        self.probe = Probe(f"http://{authority}", transport)

    async def close(self) -> None:
        """When the engine has ended for good."""
        self.upstream.close()
        if self.socket is not None:
            self.socket.close()
        await self.probe.close()
