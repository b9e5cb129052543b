"""Output lines -> phase and fraction of the engine's start. Pure.

Only the stable beginnings of messages count: a request's text or a URL in the access
log can never move the phase. The lines may be missing altogether (VLLM_LOGGING_LEVEL,
USE_TQDM_ON_LOAD), so they refine what the probes find and never replace it.
"""

from __future__ import annotations

import re

from proxy.engine.phase import Phase
from proxy.engine.server import Progress

_START = (Phase.CHECKING, Phase.DOWNLOADING, Phase.LOADING, Phase.COMPILING, Phase.WARMING)

# Latest phase first: a line that fits two belongs to the later one.
_MARKS: tuple[tuple[Phase, re.Pattern[str]], ...] = (
    (
        Phase.WARMING,
        re.compile(r"Starting vLLM server on |Application startup complete\."),
    ),
    (
        Phase.COMPILING,
        re.compile(
            # `[backbone] `, `[encoder] `: torch.compile says which part of the model it means.
            r"(?:\[\w+\] )?(?:"
            r"Warming up model for the compilation"
            r"|Starting torch\.compile"
            r"|Compiling model again"
            r"|Directly load (?:AOT|the )"
            r"|Dynamo bytecode transform time"
            r"|Compiling a graph for "
            r"|Cache the graph of "
            r"|torch\.compile took "
            r"|Compile and warming up model "
            r"|Profiling CUDA graph memory"
            r"|Capturing (?:[\w-]+ ){0,4}(?:CUDA graphs|cudagraph|model for )"
            r")"
        ),
    ),
    (
        Phase.LOADING,
        re.compile(
            r"non-default args: |Resolved architecture: |Initializing a V1 LLM engine"
            r"|Starting to load model |Multi-thread loading |Loading (?:drafter model|weights took)"
            r"|Loading (?:safetensors|pt|np_cache) |Model loading took "
        ),
    ),
)

# `Loading safetensors checkpoint shards:  40% Completed | 2/5 [..]` of vLLM's loaders and
# `Capturing CUDA graphs (decode, FULL):  40%|####  | 20/51 [..]` in tqdm's own format.
_BAR = re.compile(
    r"(?:Loading|Multi-thread loading|Capturing)\b[^%|]{0,100}?:\s{1,3}(?P<percent>\d{1,3})%"
)


def advance(before: Progress, message: str) -> Progress:
    """The progress after a message of the output (`LogLine.message`): never of an earlier phase.
    The same object where the message shows none."""
    phase = next((phase for phase, mark in _MARKS if mark.match(message)), None)
    if phase is None or before.phase not in _START:
        return before
    if _START.index(phase) < _START.index(before.phase):
        return before
    if bar := _BAR.match(message):
        return Progress(phase, min(int(bar["percent"]), 100) / 100)
    return Progress(phase, before.fraction if phase is before.phase else None)
