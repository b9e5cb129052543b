"""Is the engine really answering? Asked over HTTP, as its users would."""

from __future__ import annotations

import json

import httpx

from proxy.engine.server import Counters, ModelsUnknown, ServerProbe
from proxy.vllm.reading import read_counters
from proxy.vllm.warm_up import KEY_REMEDY, KEY_STATUSES, warm_up

_MODELS = "/v1/models"
_NO_LIST = (ValueError, KeyError, TypeError, RecursionError)
_HEALTH_TIMEOUT_SECONDS = 5.0
_MODELS_REMEDY = (
    "Check that UPSTREAM_URL is vLLM's own address, and see its log. Where the engine lists no"
    " model, SERVED_MODEL_NAME is taken for its name."
)


class Probe(ServerProbe):
    """Questions to one vLLM. Control plane only: requests of users never pass here."""

    def __init__(self, base_url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """`transport`: the way to it, where that is not TCP."""
        if transport is None:
            # Plain HTTP: loading certificates would only delay the start.
            transport = httpx.AsyncHTTPTransport(verify=False, trust_env=False)  # nosec B501
        self.client = httpx.AsyncClient(
            base_url=base_url,
            timeout=_HEALTH_TIMEOUT_SECONDS,
            trust_env=False,
            transport=transport,
        )

    async def healthy(self) -> bool:
        """What vLLM says of itself: also 200 while its core hangs."""
        try:
            return (await self.client.get("/health")).status_code == 200
        except httpx.HTTPError:
            return False

    async def served_models(self) -> tuple[str, ...]:
        """Names the engine answers to, one at least. Raises ModelsUnknown."""
        try:
            page = await self.client.get(_MODELS)
        except httpx.HTTPError as error:
            text = f"{_MODELS} is not answered ({type(error).__name__})"
            raise ModelsUnknown(text, None, _MODELS_REMEDY) from error
        if page.status_code != 200:
            remedy = KEY_REMEDY if page.status_code in KEY_STATUSES else _MODELS_REMEDY
            text = f"{_MODELS} answered {page.status_code}"
            raise ModelsUnknown(text, page.status_code, remedy)
        try:
            names = tuple(_entries(page))
        except _NO_LIST:
            kind = page.headers.get("content-type", "no content type")
            text = f"{_MODELS} answered no list of models ({kind})"
            raise ModelsUnknown(text, 200, _MODELS_REMEDY) from None
        if not names:
            text = f"{_MODELS} answered a list that names no model"
            raise ModelsUnknown(text, 200, _MODELS_REMEDY)
        return names

    async def model_entries(self) -> dict[str, bytes]:
        """The engine's own entries of `/v1/models` by name; empty where it lists none."""
        try:
            return _entries(await self.client.get(_MODELS))
        except (httpx.HTTPError, *_NO_LIST):
            return {}

    async def has(self, path: str) -> bool | None:
        """Whether the engine has what is stored there; None where it does not say."""
        try:
            status = (await self.client.get(path)).status_code
        except httpx.HTTPError:
            return None
        return None if status >= 500 else status == 200

    async def metrics_page(self) -> httpx.Response:
        """The engine's own metrics. Raises httpx.HTTPError."""
        return await self.client.get("/metrics")

    async def counters(self) -> Counters:
        """Those that only the steps of vLLM's core change; () where they cannot be read."""
        try:
            return read_counters((await self.metrics_page()).raise_for_status().content)
        except httpx.HTTPError:
            return ()

    async def warm_up(self, model: str) -> str | None:
        """Make the engine work once; the route that answered. Raises WarmUpFailed."""
        return await warm_up(self.client, model)

    async def close(self) -> None:
        await self.client.aclose()


def _entries(page: httpx.Response) -> dict[str, bytes]:
    """What `/v1/models` lists, by name, without what has none. Raises one of `_NO_LIST`."""
    entries = {}
    for entry in page.json()["data"]:
        name = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(name, str) and name:
            # A lone surrogate cannot be passed on: it is in no UTF-8.
            readable = name.encode("utf-8", "replace").decode()
            entries[readable] = json.dumps({**entry, "id": readable}).encode()
    return entries
