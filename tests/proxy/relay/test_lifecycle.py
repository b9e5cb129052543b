"""However a request ends, it is let out, observed once, and its outcome is true."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest

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
from proxy.relay.routing import Watch
from proxy.relay.upstream import Upstream
from proxy.telemetry.record import Outcome, Record
from tests.proxy.relay.routing import OneModel


class House:
    """The gate and the observer."""

    def __init__(self) -> None:
        self.inside = 0
        self.over: list[Record] = []

    async def enter(self, key: str | None, watch: Watch | None) -> float:
        self.inside += 1
        return 0.0

    async def engine_ready(self, key: str | None, watch: object) -> None:
        raise AssertionError("there is one model")

    holds = False

    async def hold_again(self, key: str | None, watch: object) -> float:
        raise AssertionError("nothing is held")

    def leave(self, key: str | None) -> None:
        self.inside -= 1

    def began(self, record: Record) -> None: ...

    def ended(self, record: Record) -> None:
        self.over.append(record)


async def end_of(work: asyncio.Future[None]) -> tuple[Record, list[RequestFailure]]:
    """What becomes of a request whose work ends so."""
    house, told = House(), []
    record = Record("POST", "/", Route.CHAT)

    async def refuse(failure: RequestFailure) -> None:
        told.append(failure)

    in_flight = InFlightRequests(PoisonGuard(enabled=True))
    lifecycle = RequestLifecycle(
        OneModel(house, in_flight, cast("Upstream", None)),
        on_start=[house.began],
        on_end=[house.ended],
    )
    passing = asyncio.ensure_future(lifecycle.run(record, lambda: work, refuse))
    await asyncio.wait([passing])
    assert house.inside == 0
    assert house.over == [record]
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
