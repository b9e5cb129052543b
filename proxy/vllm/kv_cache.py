"""Output lines -> how much memory the engine has given to its KV cache. Pure.

A line is from a worker's log of its start, so there is one for each GPU. Without them
(VLLM_LOGGING_LEVEL above INFO) nothing is known.
"""

from __future__ import annotations

import re
from math import ceil

_GIB = 1024**3
_SIZE = re.compile(
    r"(?:Available KV cache memory: (?P<profiled>\d+(?:\.\d+)?) GiB"
    # On a CPU.
    r"|(?:Explicitly|Auto) set \((?P<cpu>\d+(?:\.\d+)?)/[\d.]+\) GiB for KV cache"
    # With --kv-cache-memory-bytes.
    r"|Initial free memory [\d.]+ GiB, reserved (?P<given>\d+(?:\.\d+)?) GiB memory for KV Cache)"
)
_WEIGHTS = re.compile(r"Loading weights took |Model loading took ")
# vLLM rounds to hundredths. A context that just fitted has to fit again, so it is rounded up.
_ROUNDING_GIB = 0.005


def read_kv_cache(before: int | None, message: str) -> int | None:
    """Bytes on each GPU after a message of the output (`LogLine.message`), the least of all.

    0: the weights are there, and no line has told of a cache yet: the model has none, where the
    engine becomes ready like this. None: nothing is known.
    """
    if match := _SIZE.match(message):
        size = ceil((float(next(filter(None, match.groups()))) + _ROUNDING_GIB) * _GIB)
        return min(size, before) if before else size
    return 0 if before is None and _WEIGHTS.match(message) else before
