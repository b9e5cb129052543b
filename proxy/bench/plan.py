"""What is to be measured: where, with which requests, for how long, against which objective."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of `bench`. `url` is the endpoint without `/v1`, `key` its API key.

    `model` is None where the first that `/v1/models` lists is meant. `image_size` is in pixels
    a side, `seconds` are those of each level, `slo_ttft_ms` is the objective: the longest time to
    the first token. Of `gpus` and `gpu_price_per_hour` (dollars, one GPU) the cost is made.
    """

    url: str
    key: str | None = field(repr=False)
    model: str | None
    levels: tuple[int, ...]
    seconds: float
    slo_ttft_ms: float
    input_tokens: int
    output_tokens: int
    images: int
    image_size: int
    same_prompt: bool
    gpus: int
    gpu_price_per_hour: float | None
