"""What an operator orders for one model: load, unload, pin, unpin.

An order is taken or refused at once; the scheduler does what it says.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from proxy.errors import ModelConflict
from proxy.pool.model import ServedModel
from proxy.pool.plan import ModelState, obstacle
from proxy.pool.pool import ModelPool
from proxy.pool.scheduler import Scheduler

_log = logging.getLogger("proxy.pool")


def order(pool: ModelPool, model: ServedModel, action: str, admin: str) -> None:
    """`action` is one of `ACTIONS`; `admin` the label of the key that orders it.

    Raises:
        ModelConflict: it cannot be.
    """
    if pool.scheduler is None:
        raise ModelConflict(
            "The engines behind UPSTREAM_URL are run by someone else: nothing is loaded, unloaded"
            " or pinned here."
        )
    ACTIONS[action](pool, pool.scheduler, model)
    pool.scheduler.notify()
    _log.info("%s: %s ordered by %s", model.name or "the model", action, admin)


def _load(pool: ModelPool, scheduler: Scheduler, model: ServedModel) -> None:
    if (reason := scheduler.obstacle(model.name)) is not None:
        raise ModelConflict(f"{reason}. Unpin another model, or raise what all may take.")
    scheduler.order_load(model.name)


def _unload(pool: ModelPool, scheduler: Scheduler, model: ServedModel) -> None:
    if model.pinned:
        raise ModelConflict("A pinned model is not unloaded; unpin it first.")
    scheduler.order_unload(model.name)


def _pin(pool: ModelPool, scheduler: Scheduler, model: ServedModel) -> None:
    views = [
        replace(view, pinned=view.pinned or view.name == model.name) for view in scheduler.views()
    ]
    for view in views:
        if not view.pinned or view.state is ModelState.FAILED:
            continue
        if (reason := obstacle(view, views, pool.budget())) is not None:
            raise ModelConflict(f"This pin cannot be: {reason}. Unpin another model first.")
    model.pinned = True


def _unpin(pool: ModelPool, scheduler: Scheduler, model: ServedModel) -> None:
    model.pinned = False


ACTIONS: Mapping[str, Callable[[ModelPool, Scheduler, ServedModel], None]] = MappingProxyType(
    {"load": _load, "unload": _unload, "pin": _pin, "unpin": _unpin}
)
