"""The models of this server: one row each, and orders for them."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from time import monotonic, time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from proxy.api.health import describe_model
from proxy.api.service import Service
from proxy.errors import ModelNotFound, draining
from proxy.pool.model import ServedModel
from proxy.pool.reload import Reload
from proxy.pool.steering import ACTIONS, order

_MAX_NAME_CHARS = 200


def models_routes(service: Service) -> list[Route]:
    async def models(request: Request) -> Response:
        """All models that the key may use; an admin key sees all there are."""
        rows = [row_of(each, service) for each in _visible(service, request)]
        return JSONResponse({"models": rows})

    async def one_model(request: Request) -> Response:
        """One of them; the name may have slashes, escaped or not."""
        return JSONResponse(row_of(_find(service, request), service))

    return [Route("/models", models), Route("/models/{model:path}", one_model)]


def action_routes(service: Service, reload: Reload) -> list[Route]:
    """Orders of an operator; whoever asks was found to be one."""

    async def reload_models(request: Request) -> Response:
        """Read MODELS_FILE again; the answer says which models are new, gone, changed and not."""
        if service.stopping:
            raise draining()
        return JSONResponse(asdict(await reload(request.state.admin)), 202)

    async def act(action: str, request: Request) -> Response:
        meant = _find(service, request)
        if service.stopping:
            raise draining()
        order(service.models, meant, action, request.state.admin)
        await asyncio.sleep(0)  # the scheduler plans: the row shows what it does
        return JSONResponse(row_of(meant, service), 202)

    return [
        Route("/models/reload", reload_models, methods=["POST"]),
        *(
            Route(f"/models/{{model:path}}/{action}", partial(act, action), methods=["POST"])
            for action in ACTIONS
        ),
    ]


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


def _find(service: Service, request: Request) -> ServedModel:
    """Raises ModelNotFound."""
    name = request.path_params["model"]
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
