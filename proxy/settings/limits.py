"""What a request may be, and how long it may take."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from proxy.settings.values import Group, Seconds, UrlPaths, variable


class LimitSettings(Group):
    """What a request may be, and how long it may take."""

    max_body_mb: Annotated[float, Field(gt=0, allow_inf_nan=False)] = variable(
        "MAX_BODY_MB", default=256, effect="Largest request body, MiB."
    )
    body_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = variable(
        "BODY_TIMEOUT", default=60, effect="Seconds without a byte of an unfinished request."
    )
    max_in_flight: Annotated[int, Field(ge=1)] | None = variable(
        "MAX_IN_FLIGHT", effect="Requests at the engine at once."
    )
    max_waiting: Annotated[int, Field(ge=0)] = variable(
        "MAX_WAITING", default=0, effect="Requests that may wait for a place among those."
    )
    waiting_timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] = variable(
        "WAITING_TIMEOUT", default=60, effect="Seconds that a request may wait for a place."
    )
    hold_seconds: Seconds = variable(
        "HOLD_SECONDS", default=0, effect="Seconds a request waits for an engine that is starting."
    )
    stream_idle_timeout: Seconds | None = variable(
        "STREAM_IDLE_TIMEOUT", effect="Seconds without a byte from the engine that end an answer."
    )
    request_timeout: Seconds | None = variable(
        "REQUEST_TIMEOUT", effect="Seconds a whole request may take."
    )
    extra_routes: UrlPaths = variable(
        "EXTRA_ROUTES", default=(), effect="More engine paths to relay, comma-separated."
    )
