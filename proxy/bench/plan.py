"""What is to be measured: where, with which requests, for how long, against which objective."""

from __future__ import annotations

import msgspec


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The requests of a run, and what they are held against; `Run` keeps it for the next one.

    `image_size` is in pixels a side, `seconds` are those of each level, `slo_ttft_ms` is the
    objective: the longest time to the first token. Of `gpus` and `gpu_price_per_hour` (dollars,
    one GPU) the cost is made.
    """

    seconds: float = 20.0
    slo_ttft_ms: float = 2000.0
    input_tokens: int = 256
    output_tokens: int = 128
    images: int = 0
    image_size: int = 256
    same_prompt: bool = False
    gpus: int = 1
    gpu_price_per_hour: float | None = None


class Plan(Load, frozen=True, kw_only=True):
    """One run of `bench`. `url` is the endpoint without `/v1`, `key` its API key.

    `model` is None where the first that `/v1/models` lists is meant.
    """

    url: str
    key: str | None = None
    model: str | None = None
    levels: tuple[int, ...] = (1, 8, 32)

    @property
    def grace_seconds(self) -> float:
        """For how long those are waited for that still run when a level's `seconds` are over."""
        return self.seconds

    def __repr__(self) -> str:
        """Without the key."""
        return f"Plan(url={self.url!r}, model={self.model!r}, levels={self.levels})"
