"""What a run has measured, as `--json` writes it and `--compare` reads it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import msgspec

from proxy.bench.plan import Load
from proxy.errors import SettingsError
from proxy.telemetry.record import Record

# This share of a level's requests must have their first token in time.
OBJECTIVE_SHARE = 0.95
_VERSION = 1


class Spread(msgspec.Struct, frozen=True):
    """Percentiles of a time over requests, in ms: each is the value of one of them."""

    p50: float
    p95: float
    p99: float
    max: float


class Errors(msgspec.Struct, frozen=True):
    """How many requests failed so, and what the first of them was told."""

    count: int
    first: str


class Level(msgspec.Struct, frozen=True):
    """So many streams at once. What was not measured is None.

    `seconds` is the window: requests begin in it, and rates are of what was generated in it.
    `unfinished` were cut when the level ended. `in_time` is the share of requests whose first
    token came within the objective. `prompt_tokens` and `completion_tokens` are means a request,
    `cached` is the share of prompt tokens from the endpoint's prefix cache, `generator_cpu` the
    part of one core that this program used.
    """

    streams: int
    seconds: float
    finished: int
    failed: int
    unfinished: int
    in_time: float
    ttft_ms: Spread | None
    itl_mean_ms: Spread | None
    itl_max_ms: float | None
    tokens_per_second: float
    tokens_per_second_each: float | None
    requests_per_second: float
    prompt_tokens: float | None
    completion_tokens: float | None
    cached: float | None
    generator_cpu: float
    errors: dict[str, Errors]

    @property
    def keeps_objective(self) -> bool:
        return self.finished > 0 and self.in_time >= OBJECTIVE_SHARE


class Run(Load, frozen=True, kw_only=True):
    """All levels, and the load that they were measured with.

    `without` are fields of the request that the endpoint does not take. `has_usage` is False where
    it counts no tokens: events were counted instead. `measured_at` is in UTC, ISO 8601.
    """

    url: str
    model: str
    measured_at: str
    without: tuple[str, ...]
    has_usage: bool
    interrupted: bool
    levels: tuple[Level, ...]
    version: int = _VERSION

    @property
    def best(self) -> Level | None:
        """The level with the most streams that keep the objective."""
        kept = [level for level in self.levels if level.keeps_objective]
        return max(kept, key=lambda level: level.streams, default=None)

    def cost_of_a_million(self, tokens_per_second: float) -> float | None:
        """Dollars for a million generated tokens; None where the GPUs have no price."""
        if self.gpu_price_per_hour is None or not tokens_per_second:
            return None
        return self.gpu_price_per_hour * self.gpus / (tokens_per_second * 3600) * 1e6


@dataclass(eq=False, slots=True)
class Sample:
    """One request as it was measured.

    `error` is its kind and its message; `unfinished` says that it was cut at the level's end;
    `window_events` are its events when the window closed, None where it had ended before.
    """

    record: Record
    error: tuple[str, str] | None = None
    unfinished: bool = False
    window_events: int | None = None

    @property
    def tokens(self) -> int:
        """What was generated, by the endpoint's usage; without one each event is a token."""
        counted = self.record.completion_tokens
        return self.record.generated_events if counted is None else counted

    @property
    def tokens_in_window(self) -> float:
        events = self.record.generated_events
        if self.window_events is None or not events:
            return self.tokens
        return self.tokens * self.window_events / events

    @property
    def tokens_per_second(self) -> float | None:
        """As the log has it. Without usage each event is a token: then it is 1 / ITL."""
        if self.record.completion_tokens is not None:
            return self.record.tokens_per_second
        gap = self.record.itl_mean_seconds
        return 1 / gap if gap else None

    def is_in_time(self, slo_ttft_ms: float) -> bool | None:
        """Whether the first token came within the objective; None: cut too early to say."""
        ttft = self.record.ttft_seconds
        if self.error is None and ttft is not None:
            return ttft * 1000 <= slo_ttft_ms
        is_open = self.unfinished and self.record.duration_seconds * 1000 < slo_ttft_ms
        return None if is_open else False


def level_of(
    streams: int, seconds: float, samples: Sequence[Sample], slo_ttft_ms: float, cpu: float
) -> Level:
    """Figures of one level; `seconds` is its window, `cpu` what we used of one core."""
    good = [sample for sample in samples if sample.error is None]
    finished = [sample for sample in good if not sample.unfinished]
    records = [sample.record for sample in good]
    prompts = [one.prompt_tokens for one in records if one.prompt_tokens is not None]
    cached = [one.cached_tokens for one in records if one.cached_tokens is not None]
    verdicts = [v for sample in samples if (v := sample.is_in_time(slo_ttft_ms)) is not None]
    gaps = [one.longest_gap_seconds for one in records if one.itl_mean_seconds is not None]
    rates = [rate for sample in good if (rate := sample.tokens_per_second) is not None]
    ended_in_window = sum(sample.window_events is None for sample in finished)
    errors: dict[str, Errors] = {}
    for kind, message in (sample.error for sample in samples if sample.error is not None):
        before = errors.get(kind, Errors(0, message))
        errors[kind] = Errors(before.count + 1, before.first)
    return Level(
        streams=streams,
        seconds=round(seconds, 3),
        finished=len(finished),
        failed=len(samples) - len(good),
        unfinished=len(good) - len(finished),
        in_time=round(fmean(verdicts), 4) if verdicts else 0.0,
        ttft_ms=_spread(one.ttft_seconds for one in records),
        itl_mean_ms=_spread(one.itl_mean_seconds for one in records),
        itl_max_ms=_ms(max(gaps)) if gaps else None,
        tokens_per_second=round(sum(one.tokens_in_window for one in good) / seconds, 2),
        tokens_per_second_each=round(median(rates), 2) if rates else None,
        requests_per_second=round(ended_in_window / seconds, 3),
        prompt_tokens=round(fmean(prompts), 1) if prompts else None,
        completion_tokens=round(fmean(one.tokens for one in finished), 1) if finished else None,
        cached=round(sum(cached) / sum(prompts), 3) if cached and sum(prompts) else None,
        generator_cpu=round(cpu, 2),
        errors=errors,
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)


def _spread(seconds: Iterable[float | None]) -> Spread | None:
    """Nearest ranks: with fewer than 100 values p99 is the greatest."""
    values = sorted(value for value in seconds if value is not None)
    if not values:
        return None
    ranks = (math.ceil(share * len(values)) for share in (0.5, 0.95, 0.99, 1))
    return Spread(*(_ms(values[rank - 1]) for rank in ranks))


def read_run(file: str) -> Run:
    """What `--json` wrote to a file.

    Raises:
        SettingsError: it cannot be read, or is something else.
    """
    try:
        run = msgspec.json.decode(Path(file).read_bytes(), type=Run)
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}; allowed is a file of --json") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{file}: no result of bench ({error}); make one by --json") from None
    if run.version != _VERSION:
        text = f"a result of version {run.version}, where this bench reads {_VERSION}"
        raise SettingsError(f"{file}: {text}; measure it again")
    return run


def json_of(run: Run) -> bytes:
    return msgspec.json.format(msgspec.json.encode(run), indent=2) + b"\n"
