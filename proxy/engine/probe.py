"""Is the engine really answering? Asked over HTTP, as its users would."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx

from proxy.errors import Failure

_HEALTH_TIMEOUT_SECONDS = 5.0
_HEALTH_POLL_SECONDS = 0.25
# The first token may have to wait for kernels to be compiled.
_WARM_UP_TIMEOUT_SECONDS = 600.0
_WARM_UP_TEXT = "Hello"
# What vLLM answers on routes that the model at hand does not have.
_ROUTE_IS_NOT_THERE = (404, 405, 501)
# What it answers on a route that is there, for a model of another kind or without a tokenizer.
_NOT_ITS_TASK = 400


class WarmUpFailed(Failure):
    """The engine did not generate; `str()` says what it did instead."""


class Probe:
    """Questions to one engine. Control plane only: requests of users never pass here."""

    def __init__(self, base_url: str) -> None:
        self._client = httpx.AsyncClient(
            base_url=base_url,
            timeout=_HEALTH_TIMEOUT_SECONDS,
            trust_env=False,
            verify=False,  # plain HTTP: loading certificates would only delay the start
        )

    async def healthy(self) -> bool:
        """vLLM's own word; it is also 200 while the engine hangs."""
        try:
            return (await self._client.get("/health")).status_code == 200
        except httpx.HTTPError:
            return False

    async def until_healthy(self) -> None:
        while not await self.healthy():  # noqa: ASYNC110 (another process's state)
            await asyncio.sleep(_HEALTH_POLL_SECONDS)

    async def served_models(self) -> tuple[str, ...]:
        """Names the engine answers to; empty where it does not say."""
        try:
            page = (await self._client.get("/v1/models")).raise_for_status().json()
            return tuple(str(model["id"]) for model in page["data"])
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            return ()

    async def metrics_page(self) -> httpx.Response:
        """The engine's own metrics. Raises httpx.HTTPError."""
        return await self._client.get("/metrics")

    async def warm_up(self, model: str) -> str | None:
        """Make the engine work once; returns the route that answered.

        None where the model has none of the routes that are tried.

        Raises:
            WarmUpFailed: a route is there but did not answer as it should.
        """
        attempts: tuple[tuple[str, dict[str, Any]], ...] = (
            ("/v1/completions", {"prompt": _WARM_UP_TEXT, "max_tokens": 1}),
            ("/v1/embeddings", {"input": _WARM_UP_TEXT}),
            ("/pooling", {"input": _WARM_UP_TEXT}),
        )
        refused = None
        for path, body in attempts:
            response = await self._post(path, {"model": model, **body})
            if response.status_code == 200 and _is_an_answer(response):
                return path
            if response.status_code in _ROUTE_IS_NOT_THERE:
                continue
            refused = refused or f"{path} answered {response.status_code}"
            if response.status_code != _NOT_ITS_TASK:
                raise WarmUpFailed(refused)
        if refused:
            raise WarmUpFailed(refused)
        return None

    async def close(self) -> None:
        await self._client.aclose()

    async def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        try:
            return await self._client.post(path, json=body, timeout=_WARM_UP_TIMEOUT_SECONDS)
        except httpx.HTTPError as error:
            raise WarmUpFailed(f"{path}: {type(error).__name__}") from error


def _is_an_answer(response: httpx.Response) -> bool:
    """vLLM also tells of errors in a body with status 200."""
    try:
        return "error" not in response.json()
    except ValueError:
        return False
