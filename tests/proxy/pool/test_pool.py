"""A set of several models, from outside its engines."""

from __future__ import annotations

import asyncio

import pytest

from proxy.access.admission import Admission
from proxy.access.waiting_room import WaitingRoom
from proxy.engine.phase import Phase
from proxy.errors import ModelNotFound
from proxy.pool.model import ServedModel
from proxy.pool.pool import ModelPool
from proxy.settings import Settings
from tests.patience import PATIENCE

DRAIN_SECONDS = 3600.0
ENVIRON = {"UPSTREAM_URL": "http://127.0.0.1:9", "DRAIN_SECONDS": str(DRAIN_SECONDS)}


def a_model(name: str) -> ServedModel:
    return ServedModel(Settings.load(ENVIRON), WaitingRoom(), (name,))


async def test_a_request_that_is_cut_is_not_waited_for_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = a_model("one"), a_model("other")
    pool = ModelPool([one, other], Admission())

    async def stop() -> None:  # as an engine winds down
        await one.admission.wait_idle(DRAIN_SECONDS)

    monkeypatch.setattr(one.engine, "stop", stop)
    for phase in (Phase.LOADING, Phase.WARMING, Phase.READY):
        one.state.enter(phase)
    await pool.admission.enter()
    await one.admission.enter()
    stopping = asyncio.ensure_future(pool.stop())
    await asyncio.sleep(0)
    pool.admission.cut_now()
    await asyncio.wait_for(stopping, PATIENCE)
    await pool.close_probes()


async def test_the_name_of_a_default_that_a_key_may_not_use_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = a_model("secret")
    monkeypatch.setattr(secret, "may_be_used_by", lambda key: key == "alice")
    pool = ModelPool([secret, a_model("open")], Admission())
    with pytest.raises(ModelNotFound) as failure:
        pool.find(None, "bob")
    assert "secret" not in str(failure.value)
    assert "There is: open." in str(failure.value)
    await pool.close_probes()
