"""Is the engine really answering? Asked over HTTP, as its users would."""

from __future__ import annotations

import asyncio

import httpx

from proxy.errors import Failure
from proxy.vllm.warm_up import WarmUpFailed, WarmUpSilence, warm_up

__all__ = ["ModelsUnknown", "Probe", "WarmUpFailed", "WarmUpSilence"]

_MODELS = "/v1/models"

_HEALTH_TIMEOUT_SECONDS = 5.0
_HEALTH_POLL_SECONDS = 0.25


class ModelsUnknown(Failure):
    """The engine does not tell its models; `str()` says what it says instead, `status` is its own
    (None where it did not answer)."""

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class Probe:
    """Questions to one engine. Control plane only: requests of users never pass here."""

    def __init__(self, base_url: str) -> None:
        # Plain HTTP: loading certificates would only delay the start.
        self._client = httpx.AsyncClient(  # nosec B501
            base_url=base_url,
            timeout=_HEALTH_TIMEOUT_SECONDS,
            trust_env=False,
            verify=False,
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
        """Names the engine answers to, one at least. Raises ModelsUnknown."""
        try:
            page = await self._client.get(_MODELS)
        except httpx.HTTPError as error:
            raise ModelsUnknown(f"{_MODELS} is not answered ({type(error).__name__})") from error
        if page.status_code != 200:
            raise ModelsUnknown(f"{_MODELS} answered {page.status_code}", page.status_code)
        try:
            # A lone surrogate cannot be passed on: it is in no UTF-8.
            ids = (str(model["id"]).encode("utf-8", "replace") for model in page.json()["data"])
            names = tuple(name.decode() for name in ids)
        except (ValueError, KeyError, TypeError):
            kind = page.headers.get("content-type", "no content type")
            raise ModelsUnknown(f"{_MODELS} answered no list of models ({kind})", 200) from None
        if not names:
            raise ModelsUnknown(f"{_MODELS} answered an empty list", 200)
        return names

    async def metrics_page(self) -> httpx.Response:
        """The engine's own metrics. Raises httpx.HTTPError."""
        return await self._client.get("/metrics")

    async def warm_up(self, model: str) -> str | None:
        """Make the engine work once; the route that answered. Raises WarmUpFailed."""
        return await warm_up(self._client, model)

    async def close(self) -> None:
        await self._client.aclose()
