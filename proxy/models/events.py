"""What the download child reports to its parent: one JSON object a line."""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec

from proxy.errors import Cause
from proxy.vllm.description import ModelConfig


class Plan(msgspec.Struct, tag_field="event", tag="plan", frozen=True):
    """What there is to do, and for what model; sent before a byte of its weights is fetched."""

    files: int
    bytes_total: int
    bytes_to_fetch: int
    bytes_free: int
    revision: str
    weights_bytes: int = 0
    config: ModelConfig | None = None


class Progress(msgspec.Struct, tag_field="event", tag="progress", frozen=True):
    """Bytes of this snapshot on the disk; never falls, ends at `Plan.bytes_total`."""

    bytes: int


class Done(msgspec.Struct, tag_field="event", tag="done", frozen=True):
    path: str
    revision: str


class Failed(msgspec.Struct, tag_field="event", tag="failed", frozen=True):
    """The fields of `EngineFailure`."""

    cause: Cause
    message: str
    remedy: str
    permanent: bool


Event = Plan | Progress | Done | Failed
Emit = Callable[[Event], None]

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def decode_event(line: bytes) -> Event | None:
    """The event in a line of the child's stdout, None where the line is not one of ours."""
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        return None


def claim_stdout() -> Emit:
    """Keep stdout for events: whatever a library prints goes to stderr."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def emit(event: Event) -> None:
        out.write(msgspec.json.encode(event) + b"\n")
        out.flush()

    return emit
