"""However a request ends, it is let out, observed once, and its outcome is true."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

from proxy.access.admission import Admission
from proxy.access.poison import PoisonGuard
from proxy.access.routes import Route
from proxy.errors import (
    CutOff,
    EngineDied,
    EngineUnreachable,
    InternalFailure,
    MediaUnavailable,
    RequestFailure,
)
from proxy.relay.in_flight import InFlightRequests
from proxy.relay.lifecycle import RequestLifecycle
from proxy.relay.upstream import Upstream
from proxy.telemetry.record import Outcome, Record
from tests.proxy.relay.routing import OneModel


async def end_of(work: asyncio.Future[None]) -> tuple[Record, list[RequestFailure]]:
    """What becomes of a request whose work ends so."""
    gate, over, told = Admission(), list[Record](), list[RequestFailure]()
    record = Record("POST", "/", Route.CHAT)

    async def refuse(failure: RequestFailure) -> None:
        told.append(failure)

    in_flight = InFlightRequests(PoisonGuard(enabled=True))
    model = OneModel(gate, in_flight, cast("Upstream", None))
    lifecycle = RequestLifecycle(model, on_end=[over.append])
    passing = asyncio.ensure_future(lifecycle.run(record, lambda: work, refuse))
    await asyncio.wait([passing])
    assert gate.in_flight == 0
    assert over == [record]
    assert passing.cancelled() == work.cancelled()
    return record, told


def work() -> asyncio.Future[None]:
    return asyncio.get_running_loop().create_future()


async def test_done() -> None:
    done = work()
    done.set_result(None)
    record, told = await end_of(done)
    assert (record.outcome, record.error, told) == (Outcome.OK, None, [])


@pytest.mark.parametrize(
    ("error", "outcome", "code"),
    [
        (EngineDied("gone"), Outcome.ENGINE_DIED, "engine_died"),
        (MediaUnavailable("404"), Outcome.CLIENT_ERROR, "media_fetch_failed"),
        (EngineUnreachable("refused"), Outcome.ENGINE_UNAVAILABLE, "engine_unreachable"),
        (ZeroDivisionError(), Outcome.PROXY_ERROR, "internal_error"),
    ],
)
async def test_failed(error: Exception, outcome: Outcome, code: str) -> None:
    failed = work()
    failed.set_exception(error)
    record, told = await end_of(failed)
    assert (record.outcome, record.error) == (outcome, code)
    assert [failure.code for failure in told] == [code]


@pytest.mark.parametrize("kind", RequestFailure.__subclasses__())
async def test_a_fault_of_the_client_or_the_engine_is_none_of_the_sidecar(
    kind: type[RequestFailure],
) -> None:
    failed = work()
    failed.set_exception(kind("why"))
    record, _ = await end_of(failed)
    assert (record.outcome is Outcome.PROXY_ERROR) == (kind in (CutOff, InternalFailure))


async def test_cut_off_by_the_end_of_the_process() -> None:
    """Nobody is told any more; but it was not answered."""
    cut = work()
    cut.cancel()
    record, told = await end_of(cut)
    assert (record.outcome, record.error, told) == (Outcome.PROXY_ERROR, "cancelled", [])
