"""What a request and a token cost as connections grow: no step of the table should be a cliff."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from bench import loads
from bench.rounds import SLOW_TICK_MS, Run, say
from bench.size import FULL, TICK_MS
from bench.subjects import Subject

CONNECTIONS = (1, 16, 128, 1024, 4096)
# So many streams at 50 tokens a second keep a core busy; more of them get one a second.
_MOST_FAST_STREAMS = 128
_SECONDS = 2.0


def table(run: Run, subjects: Sequence[Subject]) -> str:
    """One line for each subject and kind of work, as Markdown: us of CPU."""
    lines = [
        f"| us of CPU | {' | '.join(f'{count:,}' for count in CONNECTIONS)} | largest step |",
        f"| {' | '.join(['---'] * (len(CONNECTIONS) + 2))} |",
    ]
    for subject in subjects:
        kinds = {"request": _requests(run, subject), "token": _tokens(run, subject)}
        for kind, costs in kinds.items():
            say(f"{subject.name}, {kind}: {costs}")
            steps = [after / before for before, after in pairwise(costs) if before and after]
            cells = [f"{cost:.1f}" if cost else "-" for cost in costs]
            lines.append(
                f"| {subject.name}, {kind} | {' | '.join(cells)} | {max(steps, default=0):.2f} |"
            )
    return "\n".join(lines)


def _requests(run: Run, subject: Subject) -> list[float]:
    costs = []
    with run.engine(TICK_MS) as engine, run.started(subject, engine) as stand:
        for count in CONNECTIONS if stand is not None else ():
            assert stand is not None
            # As many as come in the time, so that each count has the same weight.
            size = replace(
                FULL,
                streams=count,
                requests=1_000_000,
                warm_up_requests=2 * count,
                request_seconds=_SECONDS,
            )
            costs.append(loads.requests(stand.target, size)["cpu_us_per_request"])
    return costs


def _tokens(run: Run, subject: Subject) -> list[float]:
    costs = []
    for count in CONNECTIONS:
        is_fast = count <= _MOST_FAST_STREAMS
        tick = TICK_MS if is_fast else SLOW_TICK_MS
        with run.engine(tick) as engine, run.started(subject, engine) as stand:
            if stand is None:
                return []
            if is_fast:
                size = replace(FULL, streams=count, tokens=100)
                figures = loads.streams(stand.target, size)
            else:
                size = replace(FULL, open_streams=count, hold_seconds=_SECONDS)
                figures = loads.open_streams(stand.target, size)
            costs.append(figures.get("cpu_us_per_token", 0.0))
    return costs
