"""What an operator orders for one model: load, unload, pin, unpin.

An order is taken or refused at once; the scheduler does what it says.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from proxy.errors import ModelConflict
from proxy.pool.model import ServedModel
from proxy.pool.plan import ModelState, obstacle
from proxy.pool.pool import ModelPool

_log = logging.getLogger("proxy.pool")

ACTIONS = ("load", "unload", "pin", "unpin")


def order(pool: ModelPool, model: ServedModel, action: str, admin: str) -> None:
    """`action` is one of `ACTIONS`; `admin` the label of the key that orders it.

    Raises:
        ModelConflict: it cannot be.
    """
    scheduler = pool.scheduler
    if scheduler is None:
        raise ModelConflict(
            "The engines behind UPSTREAM_URL are run by someone else: nothing is loaded, unloaded"
            " or pinned here."
        )
    match action:
        case "load":
            if (reason := scheduler.obstacle(model.name)) is not None:
                raise ModelConflict(f"{reason}. Unpin another model, or raise what all may take.")
            scheduler.order_load(model.name)
        case "unload":
            if model.pinned:
                raise ModelConflict("A pinned model is not unloaded; unpin it first.")
            scheduler.order_unload(model.name)
        case "pin":
            views = [
                replace(view, pinned=view.pinned or view.name == model.name)
                for view in scheduler.views()
            ]
            for view in views:
                has_failed = view.state is ModelState.FAILED and view.name != model.name
                if not view.pinned or has_failed:
                    continue
                if (reason := obstacle(view, views, pool.budget())) is not None:
                    raise ModelConflict(f"This pin cannot be: {reason}. Unpin another model first.")
            model.pinned = True
            if model.view.state is ModelState.FAILED:
                scheduler.order_load(model.name)
        case "unpin":
            model.pinned = False
    scheduler.notify()
    _log.info("%s: %s ordered by %s", model.name or "the model", action, admin)
