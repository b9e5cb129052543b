"""The models of this server: one row each, and orders for them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from time import monotonic, time
from typing import Any

from fastapi import APIRouter, Request

from proxy.api.health import describe_model
from proxy.api.service import Service
from proxy.errors import ModelNotFound, draining
from proxy.pool.model import ServedModel
from proxy.pool.reload import Changes, Reload
from proxy.pool.steering import ACTIONS, order

_MAX_NAME_CHARS = 200


def models_router(service: Service) -> APIRouter:
    router = APIRouter(tags=["models"])

    @router.get("/models")
    async def models(request: Request) -> dict[str, Any]:
        """All models that the key may use; an admin key sees all there are."""
        return {"models": [row_of(each, service) for each in _visible(service, request)]}

    @router.get("/models/{model:path}")
    async def one_model(request: Request, model: str) -> dict[str, Any]:
        """One of them; the name may have slashes, escaped or not."""
        return row_of(_find(service, request, model), service)

    return router


def actions_router(service: Service, reload: Reload) -> APIRouter:
    """Orders of an operator; whoever asks was found to be one."""
    router = APIRouter(tags=["models"])

    @router.post("/models/reload", status_code=202)
    async def reload_models(request: Request) -> Changes:
        """Read MODELS_FILE again; the answer says which models are new, gone, changed and not."""
        if service.stopping:
            raise draining()
        return await reload(request.state.admin)

    def endpoint(action: str) -> Callable[[Request, str], Awaitable[dict[str, Any]]]:
        async def act(request: Request, model: str) -> dict[str, Any]:
            meant = _find(service, request, model)
            if service.stopping:
                raise draining()
            order(service.models, meant, action, request.state.admin)
            await asyncio.sleep(0)  # the scheduler plans: the row shows what it does
            return row_of(meant, service)

        return act

    for action in ACTIONS:
        path = f"/models/{{model:path}}/{action}"
        router.post(path, status_code=202, name=action)(endpoint(action))
    return router


def row_of(model: ServedModel, service: Service) -> dict[str, Any]:
    """What is not known is left out."""
    view, names = model.view, service.names_of(model)
    values = {
        "name": names[0],
        "served_names": list(names),
        "since": _timestamp(view.since),
        **describe_model(model),
        "gpus": list(view.gpus) or None,
        "memory_bytes": view.memory_bytes if model.is_measured else None,
        "load_seconds": round(view.load_seconds, 1) or None,
        "pinned": view.pinned,
        "last_used": _timestamp(view.last_used),
        "last_used_seconds_ago": round(monotonic() - view.last_used, 1),
    }
    return {name: value for name, value in values.items() if value is not None}


def _visible(service: Service, request: Request) -> list[ServedModel]:
    key, is_admin = request.state.key, request.state.admin is not None
    return [each for each in service.models if is_admin or each.may_be_used_by(key)]


def _find(service: Service, request: Request, name: str) -> ServedModel:
    """Raises ModelNotFound."""
    visible = _visible(service, request)
    for model in visible:
        if name in service.names_of(model):
            return model
    names = ", ".join(service.names_of(each)[0] for each in visible) or "none for this key"
    text = f"There is no model {name[:_MAX_NAME_CHARS]} here. There is: {names}."
    raise ModelNotFound(text, param="model")


def _timestamp(moment: float) -> str:
    """A monotonic time as ISO 8601."""
    at = datetime.fromtimestamp(time() - monotonic() + moment, UTC)
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
