"""What every relayed request goes through: recorded, let in at the gate, and let out again."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic

from proxy import errors
from proxy.access.admission import Watch
from proxy.access.routes import Route
from proxy.errors import InternalFailure, ModelNotFound, RequestFailure, Source
from proxy.relay import headers
from proxy.relay.background import is_of_stored
from proxy.relay.routing import Model, Models
from proxy.server.request import Request
from proxy.telemetry.record import Outcome, Record, TraceContext

_log = logging.getLogger("proxy.relay")

_OUTCOMES: dict[type[RequestFailure], Outcome] = {
    errors.ClientClosed: Outcome.CLIENT_CLOSED,
    errors.Unauthorized: Outcome.REJECTED,
    errors.OriginNotAllowed: Outcome.REJECTED,
    errors.HostNotAllowed: Outcome.REJECTED,
    errors.AdminOnly: Outcome.REJECTED,
    errors.RateLimited: Outcome.REJECTED,
    errors.QuotaExceeded: Outcome.REJECTED,
    errors.RequestTimeout: Outcome.TIMEOUT,
    errors.HeadTooLarge: Outcome.REJECTED,
    errors.BodyTooLarge: Outcome.REJECTED,
    errors.MediaRefused: Outcome.REJECTED,
    errors.PoisonedRequest: Outcome.REJECTED,
    errors.Draining: Outcome.REJECTED,
    errors.Overloaded: Outcome.REJECTED,
    errors.EngineDied: Outcome.ENGINE_DIED,
    errors.InvalidEngineResponse: Outcome.ENGINE_ERROR,
    errors.EngineTimeout: Outcome.TIMEOUT,
}
_OUTCOME_OF_SOURCE = {
    Source.CLIENT: Outcome.CLIENT_ERROR,
    Source.UPSTREAM: Outcome.ENGINE_UNAVAILABLE,
    Source.PROXY: Outcome.PROXY_ERROR,
}

# As long as it takes to see that a model is loaded, and much more.
_NO_WAIT_SECONDS = 0.001
_COUNT = re.compile(rb"\d{1,4}")

Work = Callable[[], Awaitable[None]]
Refuse = Callable[[RequestFailure], Awaitable[None]]


class RequestLifecycle:
    """One gate for all requests, and what is done with the record of each."""

    def __init__(
        self,
        models: Models,
        *,
        begin_span: Callable[[Record], TraceContext] | None = None,
        on_start: Sequence[Callable[[Record], None]] = (),
        on_end: Sequence[Callable[[Record], None]] = (),
    ) -> None:
        """`begin_span` says where in a trace a request stands. `on_start` is called in order with
        each record as it begins, `on_end` when it is finished. None of them changes it."""
        self._models = models
        self._only = models.only
        self._gate = models.admission
        # By the id of their record: the model whose engine they are at, where there are several.
        self._models_of: dict[int, Model] = {}
        self._begin_span = begin_span
        self._on_start = on_start
        self._on_end = on_end

    async def run(
        self, record: Record, work: Work, refuse: Refuse, watch: Watch | None = None
    ) -> None:
        """Do `work` inside the gate. A failure goes into the record, then to `refuse`."""
        self._begin(record)
        only = self._only
        try:
            record.waited_seconds = await self._gate.enter(record.key, watch)
            if only is not None:
                only.in_flight.begin(record)
            try:
                await work()
            finally:
                self._gate.leave(record.key)
        except RequestFailure as failure:
            await _fail(record, failure, refuse)
        except Exception:
            _log.exception("the sidecar failed", extra={"request_id": record.request_id})
            await _fail(record, InternalFailure("The sidecar failed."), refuse)
        except asyncio.CancelledError:  # the process ends, and waits no longer
            record.fail(Outcome.PROXY_ERROR, InternalFailure.source, "cancelled")
            raise
        finally:
            record.finish()
            if only is not None:
                only.in_flight.end(record)
            elif (model := self._models_of.pop(id(record), None)) is not None:
                model.in_flight.end(record)
                model.admission.leave(record.key)
            for end in self._on_end:
                end(record)

    async def enter(self, record: Record, watch: Watch) -> Model:
        """Let a request in at the model that it is for, where there are several.

        Raises:
            ModelNotFound: there is none of that name.
            RequestFailure: it may not be sent now.
        """
        while True:
            if is_of_stored(record):
                model = await self._models.find_stored(record.path, record.key)
            else:
                model = self._models.find(record.model, record.key)
            record.engine, began = model.name, monotonic()
            try:
                try:
                    await model.admission.wait_for_engine(record.key, watch)
                finally:  # who gives up has waited too
                    waited = monotonic() - began
                    _add_wait(record, waited)
                    if waited > _NO_WAIT_SECONDS:
                        record.model_wait_seconds = (record.model_wait_seconds or 0) + waited
                _add_wait(record, await model.admission.enter(record.key, watch))
            except ModelNotFound:  # it was taken out meanwhile; another may have its name
                continue
            model.in_flight.begin(record)
            self._models_of[id(record)] = model
            return model

    async def reject(self, record: Record, failure: RequestFailure, refuse: Refuse) -> None:
        """A request that never comes to the gate; it is recorded like any other."""
        self._begin(record)
        try:
            await _fail(record, failure, refuse)
        finally:
            record.finish()
            for end in self._on_end:
                end(record)

    def _begin(self, record: Record) -> None:
        if self._begin_span is not None:
            record.traceparent, record.span_headers = self._begin_span(record)
        for start in self._on_start:
            start(record)


def _add_wait(record: Record, seconds: float) -> None:
    if record.body_read is not None:
        record.held_seconds += seconds
    else:
        record.waited_seconds += seconds


async def _fail(record: Record, failure: RequestFailure, refuse: Refuse) -> None:
    outcome = _OUTCOMES.get(type(failure)) or _OUTCOME_OF_SOURCE[failure.source]
    record.fail(outcome, failure.source, failure.code)
    await refuse(failure)


def record_of(request: Request, route: Route, key: str | None = None) -> Record:
    """The record of a request as its head shows it; `key` is the label of its API key."""
    named = request.named
    retries = named.get(b"x-stainless-retry-count")
    user_agent = named.get(b"user-agent")
    traceparent = headers.traceparent(named)
    tracestate = named.get(b"tracestate") if traceparent is not None else None
    return Record(
        method=request.method,
        path=request.path.decode("latin-1"),
        route=route,
        request_id=headers.request_id(named).decode(),
        traceparent=traceparent,
        tracestate=tracestate.decode("latin-1") if tracestate is not None else None,
        key=key,
        client=request.client,
        user_agent=user_agent.decode("latin-1") if user_agent else None,
        retries=int(retries) if retries is not None and _COUNT.fullmatch(retries) else None,
        started=request.began,
    )
