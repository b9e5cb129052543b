"""A run in words and columns: what was sent, a line for each level, and what it means."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

from proxy.bench.result import OBJECTIVE_SHARE, Level, Run, Spread

_BUSY = 0.8  # of one core; above it the generator may be what is measured
_CACHED = 0.1
_OFF = 0.1

_Figure = Callable[[Level], float | None]


def report(run: Run) -> Iterator[str]:
    """Lines for a terminal or a file: the load, the table, what to know of it, the verdict."""
    yield f"{run.url}, model {run.model}: {_load(run)}."
    yield ""
    yield from table(run)
    yield ""
    yield from notes(run)
    yield verdict(run)


_COLUMNS: tuple[tuple[str, Callable[[Level], str]], ...] = (
    ("STREAMS", lambda level: str(level.streams)),
    ("DONE", lambda level: str(level.finished)),
    ("FAILED", lambda level: str(level.failed)),
    ("CUT", lambda level: str(level.unfinished)),
    ("TTFT p50", lambda level: _number(_at(level.ttft_ms, "p50"))),
    ("p95", lambda level: _number(_at(level.ttft_ms, "p95"))),
    ("p99", lambda level: _number(_at(level.ttft_ms, "p99"))),
    ("ITL p50", lambda level: _number(_at(level.itl_mean_ms, "p50"))),
    ("p95", lambda level: _number(_at(level.itl_mean_ms, "p95"))),
    ("max", lambda level: _number(level.itl_max_ms)),
    ("TOKENS/S", lambda level: _number(level.tokens_per_second)),
    ("EACH", lambda level: _number(level.tokens_per_second_each)),
    ("IN TIME", lambda level: _percent(level.in_time)),
)


def table(run: Run) -> Iterator[str]:
    yield f"Times in ms; in time: the first token within {run.slo_ttft_ms:g} ms."
    rows = [tuple(head for head, _ in _COLUMNS)]
    rows += [tuple(cell(level) for _, cell in _COLUMNS) for level in run.levels]
    yield from _aligned(rows)


def notes(run: Run) -> Iterator[str]:
    """What a reader should know before using the figures; each is a line."""
    if run.without:
        yield f"The endpoint does not take {', '.join(run.without)}."
    if not run.has_usage:
        text = f"each event is counted as a token, and prompts have {run.input_tokens} words"
        yield f"The endpoint gives no usage: {text}."
    for level in run.levels[-1:]:
        for name, measured, wanted in (
            ("Prompts", level.prompt_tokens, run.input_tokens),
            ("Answers", level.completion_tokens, run.output_tokens),
        ):
            if measured is not None and abs(measured - wanted) > max(_OFF * wanted, 1):
                yield f"{name} had {measured:g} tokens on average, not {wanted}."
    for level in run.levels:
        of = f"{_streams(level.streams)}: "
        for kind, errors in level.errors.items():
            yield f"{of}{errors.count} failed ({kind}): {errors.first}"
        if level.generator_cpu > _BUSY:
            share = _percent(level.generator_cpu)
            yield f"{of}bench itself used {share} of a core, so times may be its own"
        if level.cached is not None and level.cached > _CACHED:
            yield f"{of}{_percent(level.cached)} of the prompts' tokens came from the prefix cache"
    if run.interrupted:
        yield "Interrupted: the last level is not whole."


def verdict(run: Run) -> str:
    """How many streams at once keep the objective, and what that yields and costs."""
    objective = f"{_percent(OBJECTIVE_SHARE)} of first tokens within {run.slo_ttft_ms:g} ms"
    best = run.best
    if best is None:
        nearest = max(run.levels, key=lambda level: level.in_time, default=None)
        if nearest is None:
            return "Nothing was measured."
        text = f"{_percent(nearest.in_time)} with {_streams(nearest.streams)}"
        if not nearest.finished:
            text += ", and no request ended well"
        return f"No level keeps the objective ({objective}): the best has {text}."
    is_most = best.streams == max(level.streams for level in run.levels)
    tried = ", the most that were tried," if is_most else ""
    keep = "keeps" if best.streams == 1 else "keep"
    rate = best.tokens_per_second
    text = f"{_streams(best.streams)} at once{tried} {keep} the objective ({objective})"
    text += f": {_number(rate)} tokens a second"
    cost = run.cost_of_a_million(rate)
    if cost is not None:
        gpus = "1 GPU" if run.gpus == 1 else f"{run.gpus} GPUs"
        price = f"{gpus} at ${run.gpu_price_per_hour:.2f} an hour"
        return f"{text}; a million generated tokens cost ${_number(cost)} ({price})."
    return f"{text}."


_FIGURES: tuple[tuple[str, _Figure], ...] = (
    ("TTFT p50, ms", lambda level: _at(level.ttft_ms, "p50")),
    ("TTFT p95, ms", lambda level: _at(level.ttft_ms, "p95")),
    ("ITL p50, ms", lambda level: _at(level.itl_mean_ms, "p50")),
    ("ITL p95, ms", lambda level: _at(level.itl_mean_ms, "p95")),
    ("longest gap, ms", lambda level: level.itl_max_ms),
    ("tokens/s", lambda level: level.tokens_per_second),
    ("tokens/s each", lambda level: level.tokens_per_second_each),
    ("in time, %", lambda level: level.in_time * 100),
    ("failed", lambda level: level.failed),
)


def comparison(before: Run, after: Run) -> Iterator[str]:
    """Both beside each other with the ratio after / before, for the levels that both have."""
    yield f"before  {before.measured_at}, {before.url}, model {before.model}"
    yield f"after   {after.measured_at}, {after.url}, model {after.model}"
    if (was := _load(before)) != (now := _load(after)):
        yield f"Not the same load, so the ratios compare two things: {was}; {now}."
    yield ""
    levels = {level.streams: level for level in after.levels}
    rows = [("STREAMS", "FIGURE", "BEFORE", "AFTER", "RATIO")]
    for level in before.levels:
        if level.streams not in levels:
            continue
        for name, figure in _FIGURES:
            old, new = figure(level), figure(levels[level.streams])
            ratio = f"{new / old:.2f}" if old and new is not None else "-"
            rows.append((str(level.streams), name, _number(old), _number(new), ratio))
    if len(rows) == 1:
        yield "They have no level in common."
    else:
        yield from _aligned(rows, left=1)
    yield ""
    yield f"before: {verdict(before)}"
    yield f"after:  {verdict(after)}"


def _load(run: Run) -> str:
    pictures = {0: "", 1: " and 1 picture"}.get(run.images, f" and {run.images} pictures")
    if run.images:
        pictures += f" of {run.image_size} x {run.image_size}"
    same = ", always the same" if run.same_prompt else ""
    tokens = f"prompts of {run.input_tokens} tokens{pictures}{same}"
    return f"{tokens}, answers of {run.output_tokens}, {run.seconds:g} s a level"


def _aligned(rows: Sequence[tuple[str, ...]], left: int = -1) -> Iterator[str]:
    """Columns to the right, but for number `left`."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            f"{cell:{'<' if number == left else '>'}{width}}"
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _streams(count: int) -> str:
    return "1 stream" if count == 1 else f"{count} streams"


def _percent(share: float) -> str:
    """Rounded down: 95 % is never less than that."""
    return f"{int(share * 100 + 1e-9)} %"


def _at(spread: Spread | None, percentile: Literal["p50", "p95", "p99"]) -> float | None:
    return None if spread is None else float(getattr(spread, percentile))


def _number(value: float | None) -> str:
    """Three digits, as `0.042`, `4.20`, `42.0`, `420`; `-` where there is none."""
    if value is None:
        return "-"
    limits = ((99.95, 0), (9.995, 1), (0.0995, 2))
    digits = next((digits for least, digits in limits if value >= least), 3)
    return f"{value:.{digits}f}" if value else "0"
