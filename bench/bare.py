"""The least that uvicorn can do: an answer of 1 KB from memory, nothing relayed, no telemetry.

A floor for the cost of a plain request; ours also asks an engine, and writes a line.
"""

from __future__ import annotations

import os

import uvicorn
from starlette.types import Receive, Scope, Send

_ANSWER = b'{"choices":[{"message":{"content":"%b"}}]}' % (b"x" * 1000)
_HEADERS = [
    (b"content-type", b"application/json"),
    (b"content-length", b"%d" % len(_ANSWER)),
]


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body", False):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    await send({"type": "http.response.body", "body": _ANSWER})


if __name__ == "__main__":
    port = int(os.environ["PORT"])
    uvicorn.run(app, host="127.0.0.1", port=port, access_log=False, lifespan="off")
