"""httpx over a Unix socket, by connections as those of requests.

httpx's own Unix sockets are anyio's: a read that is cancelled in the moment that its bytes come, as
where an engine ends, logs a traceback (anyio 4.16 on uvloop).
"""

from __future__ import annotations

import asyncio

import httpx

from proxy.errors import EngineUnreachable, Overloaded, RequestFailure
from proxy.relay.upstream import Upstream


class UnixTransport(httpx.AsyncBaseTransport):
    """Asks one engine, and returns its whole answers."""

    def __init__(self, path: str) -> None:
        self._upstream = Upstream("", 0, "", uds=path)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises httpx.TransportError. The time that a read may take is that of the whole."""
        parts, body = (await request.aread(),), bytearray()
        seconds = request.extensions.get("timeout", {}).get("read")
        try:
            async with asyncio.timeout(seconds):
                connection = await self._upstream.connection()
                try:
                    path, headers = request.url.raw_path, request.headers.raw
                    connection.send(request.method, path, headers, parts)
                    connection.request_sent()
                    head = await connection.response_head()
                    rest = await connection.pass_on(lambda piece, _: body.extend(piece))
                    content = bytes(body) + rest
                    return httpx.Response(head.status, headers=head.headers, content=content)
                finally:
                    connection.release()
        except TimeoutError as late:
            raise httpx.ReadTimeout(f"no answer within {seconds} s") from late
        except (EngineUnreachable, Overloaded) as failure:
            raise httpx.ConnectError(str(failure)) from failure
        except RequestFailure as failure:
            raise httpx.RemoteProtocolError(str(failure)) from failure

    async def aclose(self) -> None:
        self._upstream.close()
