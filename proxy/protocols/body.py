"""The JSON object that a protocol is asked with, as long as reading it holds up nobody."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from proxy.errors import InvalidRequest
from proxy.json_scan import exceeds, in_slices

# Whoever reads JSON into objects holds up every stream meanwhile, in a thread too. Together these
# keep it below 20 ms, and the objects smaller than the body: an empty list takes 56 bytes.
MAX_VALUES = 100_000
MAX_CONTAINERS = 20_000
MAX_ESCAPES = 1_000_000
_SMALL_BYTES = 64 * 1024


async def decoded(body: bytes | bytearray, path: str) -> dict[str, Any]:
    """The object that a body is.

    Raises:
        InvalidRequest: it is none, or has more values or escapes than are read for `path`.
    """
    is_small = len(body) <= _SMALL_BYTES
    limits = (MAX_VALUES, MAX_CONTAINERS, MAX_ESCAPES)
    if not is_small and await in_slices(exceeds(body, *limits)):
        text = "body: has more than {} values, {} arrays and objects or {} escapes"
        raise InvalidRequest(f"{text.format(*limits)}, the most for {path}", param="body")
    try:
        value = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not JSON: {error}.", param="body") from None
    if not isinstance(value, dict):
        raise InvalidRequest("body: must be a JSON object", param="body")
    if not is_small:
        await asyncio.sleep(0)
    return value
