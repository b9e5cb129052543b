"""The `model` of an upload (`multipart/form-data`), wherever in the form it stands."""

from __future__ import annotations

import re

from proxy.json_scan import SLICE_WORK, Scan, Text

# What is passed over between two turns of the event loop.
_SEARCH_BYTES = 512 * 1024
# Longer ones are no field that names a model.
_MAX_HEAD_BYTES, _MAX_NAME_BYTES = 8 * 1024, 1024
# The engine takes 1,000 files and 1,000 other fields.
_MAX_PARTS = 2_000
_BOUNDARY = re.compile(rb'multipart/form-data\s*;.*?\bboundary="?([^";,\s]{1,70})', re.I | re.S)
_IS_MODEL = re.compile(
    rb'^content-disposition:\s*form-data\s*;[^\r\n]*\bname="?model"?\s*(;|\r|$)', re.I | re.M
)
_IS_FILE = re.compile(rb"\bfilename\*?=", re.I)


def boundary_of(content_type: bytes) -> bytes | None:
    """None where the body is no such form."""
    match = _BOUNDARY.match(content_type)
    return match[1] if match is not None else None


def model_of_form(body: Text, boundary: bytes) -> Scan[str | None]:
    """None where no field of the form is called so, or the form breaks off before that."""
    delimiter = b"\r\n--" + boundary
    # As if a line had ended before the first byte: mostly a delimiter begins the form.
    begins = body.startswith(delimiter[2:])
    end = -2 if begins else (yield from _find(body, delimiter, 0))
    for _ in range(_MAX_PARTS):
        if end is None:
            return None
        start = end + len(delimiter)
        head_end = body.find(b"\r\n\r\n", start, start + _MAX_HEAD_BYTES)
        if head_end < 0 or body.startswith(b"--", start):
            return None
        head = bytes(body[start:head_end])
        # The end of the last line counts again: an empty content is followed by the delimiter.
        end = yield from _find(body, delimiter, head_end + 2)
        if end is not None and _IS_MODEL.search(head) and not _IS_FILE.search(head):
            name = body[head_end + 4 : end]
            if len(name) <= _MAX_NAME_BYTES:
                return name.decode(errors="replace") or None
    return None


def _find(body: Text, delimiter: bytes, start: int) -> Scan[int | None]:
    for at in range(start, len(body), _SEARCH_BYTES):
        place = body.find(delimiter, at, at + _SEARCH_BYTES + len(delimiter))
        yield SLICE_WORK
        if place >= 0:
            return place
    return None
