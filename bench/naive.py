"""The proxy that one writes first: FastAPI and httpx, twenty lines, no telemetry."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=os.environ["UPSTREAM_URL"], limits=limits) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/{path:path}")
async def relay(path: str, request: Request) -> StreamingResponse:
    client: httpx.AsyncClient = request.app.state.client
    headers = {"content-type": request.headers.get("content-type", "application/json")}
    outgoing = client.build_request(
        "POST", f"/{path}", content=await request.body(), headers=headers, timeout=None
    )
    answer = await client.send(outgoing, stream=True)
    return StreamingResponse(
        answer.aiter_raw(),
        status_code=answer.status_code,
        headers={"content-type": answer.headers["content-type"]},
        background=BackgroundTask(answer.aclose),
    )


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=False)
