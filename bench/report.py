"""Results as JSON, and as tables in docs/performance.md, each run's between its markers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from bench.result import Result
from bench.subjects import REPOSITORY
from bench.targets import REAL_TARGETS, TARGETS, Target

RESULTS = REPOSITORY / "bench" / "results"
PAGE = REPOSITORY / "docs" / "performance.md"
_NONE = "-"


@dataclass(frozen=True)
class Place:
    """Where on the page a run's tables go."""

    begin: str
    end: str


SIDE_BY_SIDE = Place("<!-- bench: written by `make bench`, do not edit -->", "<!-- bench: end -->")
WITH_VLLM = Place(
    "<!-- bench --real: written by `make bench`, do not edit -->", "<!-- bench --real: end -->"
)


@dataclass(frozen=True)
class Column:
    title: str
    workload: str
    figure: str
    digits: int = 1


_STREAMS = "streams"
_TABLES: dict[str, tuple[Column, ...]] = {
    "128 streams of 100 tokens, all begun at once (ms where no unit is named)": (
        Column("CPU us / token", _STREAMS, "cpu_us_per_token"),
        Column("first bytes p50", _STREAMS, "head_p50_ms"),
        Column("p99", _STREAMS, "head_p99_ms"),
        Column("TTFT p50", _STREAMS, "ttft_p50_ms"),
        Column("p99", _STREAMS, "ttft_p99_ms"),
        Column("token delay p50", _STREAMS, "delay_p50_ms"),
        Column("p99", _STREAMS, "delay_p99_ms"),
        Column("unfinished", _STREAMS, "unfinished", 0),
    ),
    "128 streams of 25 tokens, one begun every 3.2 ms (ms)": (
        Column("first bytes p50", "arrivals", "head_p50_ms", 2),
        Column("p99", "arrivals", "head_p99_ms", 2),
        Column("TTFT p50", "arrivals", "ttft_p50_ms"),
        Column("p99", "arrivals", "ttft_p99_ms"),
        Column("token delay p50", "arrivals", "delay_p50_ms"),
        Column("p99", "arrivals", "delay_p99_ms"),
    ),
    "Plain requests with 1 KB answers on 128 connections": (
        Column("CPU us / request", "requests", "cpu_us_per_request", 0),
        Column("requests / s", "requests", "requests_per_second", 0),
        Column("latency p50 ms", "requests", "latency_p50_ms"),
        Column("p99 ms", "requests", "latency_p99_ms"),
    ),
    "Plain requests, each on a connection of its own": (
        Column("CPU us / request", "fresh", "cpu_us_per_request", 0),
    ),
    "Large bodies, one at a time; the last two: 16 streams while two of 20 MB come": (
        Column("1 MB: CPU ms", "bodies", "body_1mb_cpu_ms"),
        Column("20 MB: CPU ms", "bodies", "body_20mb_cpu_ms"),
        Column("20 MB: seen by the client, ms", "bodies", "body_20mb_p50_ms", 0),
        Column("peak RSS MiB", "bodies", "body_20mb_peak_rss_mib", 0),
        Column("above idle MiB", "bodies", "body_20mb_above_idle_mib", 0),
        Column("token delay p99 ms", "beside", "delay_p99_ms"),
        Column("longest ms", "beside", "delay_max_ms"),
    ),
    "1,000 streams held open at one token a second": (
        Column("opened", "open_streams", "opened", 0),
        Column("peak RSS MiB", "open_streams", "peak_rss_mib", 0),
        Column("CPU us / token", "open_streams", "cpu_us_per_token"),
        Column("token delay p50 ms", "open_streams", "delay_p50_ms"),
        Column("p99 ms", "open_streams", "delay_p99_ms"),
    ),
    "Was it the proxy that was measured? CPU shares of all during `streams` and `requests`": (
        Column("engine, streams", _STREAMS, "engine_cpu_share", 2),
        Column("client, streams", _STREAMS, "client_cpu_share", 2),
        Column("proxy, streams", _STREAMS, "proxy_cpu_share", 2),
        Column("anything else, streams", _STREAMS, "others_cpu_share", 2),
        Column("engine, requests", "requests", "engine_cpu_share", 2),
        Column("client, requests", "requests", "client_cpu_share", 2),
        Column("proxy, requests", "requests", "proxy_cpu_share", 2),
        Column("anything else, requests", "requests", "others_cpu_share", 2),
    ),
}


_REAL_TITLE = "Real vLLM: `vllm bench serve`, 64 streams of 128 tokens (ms where no unit is named)"
_REAL_COLUMNS = (
    Column("output tokens / s", "real", "tokens_per_second", 0),
    Column("TTFT p50", "real", "ttft_p50_ms"),
    Column("p99", "real", "ttft_p99_ms"),
    Column("ITL p50", "real", "itl_p50_ms"),
    Column("p99", "real", "itl_p99_ms"),
    Column("failed", "real", "failed", 0),
    Column("proxy's CPU us / token", "real", "cpu_us_per_token"),
)


def tables(result: Result) -> str:
    """The whole of what stands between the markers."""
    parts = [_heading(result), _targets(result, TARGETS)]
    parts += [_table(result, title, columns) for title, columns in _TABLES.items()]
    return "\n\n".join(part for part in parts if part)


def real_tables(result: Result) -> str:
    """The same of a run with real vLLM; the last rows are ratios, taken round by round."""
    rows = _rows(result, _REAL_COLUMNS)
    for subject in result.versions:
        if subject != "direct":
            ratios = [
                result.ratios(column.workload, column.figure, subject) for column in _REAL_COLUMNS
            ]
            rows.append([f"{subject} / direct", *(_spread(values, 3) for values in ratios)])
    table = _markdown(_REAL_TITLE, ("", *(column.title for column in _REAL_COLUMNS)), rows)
    parts = [_heading(result), _targets(result, REAL_TARGETS), table]
    return "\n\n".join(part for part in parts if part)


def save(result: Result, *, kind: str = "") -> Path:
    """Write the JSON; its name ends with the kind of run."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    stamp = result.date.replace(":", "").replace("-", "").removesuffix("Z")
    path = RESULTS / f"{stamp}{kind}.json"
    path.write_text(json.dumps(_rounded(asdict(result)), indent=1) + "\n")
    return path


def write_page(place: Place, text: str, page: Path = PAGE) -> None:
    """Put a run's tables in the place of the last one's."""
    before, begin, rest = page.read_text().partition(place.begin)
    _, end, after = rest.partition(place.end)
    if not begin or not end:
        raise ValueError(f"{page} has no markers {place.begin} ... {place.end}")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _heading(result: Result) -> str:
    machine = ", ".join(f"{name} {value}" for name, value in result.machine.items())
    versions = "; ".join(f"{name} {value}" for name, value in result.versions.items())
    lines = [f"{result.date}, {_count_rounds(result)} rounds: median (least-most).", ""]
    lines += [f"- Machine: {machine}", f"- Versions: {versions}"]
    if result.absent:
        absent = "; ".join(f"{name}: {why}" for name, why in result.absent.items())
        lines.append(f"- Absent: {absent}")
    return "\n".join(lines)


def _count_rounds(result: Result) -> int:
    return max((one.round for one in result.rounds), default=0)


def _targets(result: Result, targets: Sequence[Target]) -> str:
    rows = [
        _target_row(target, value)
        for target in targets
        if (value := target.value(result)) is not None
    ]
    return _markdown("Targets", ("", "measured", "good", ""), rows) if rows else ""


def _target_row(target: Target, value: float) -> list[str]:
    verdict = "reached" if target.reached(value) else "missed"
    measured, limit = (f"{number:.3g} {target.unit}".strip() for number in (value, target.limit))
    return [target.text, measured, f"at {'least' if target.is_floor else 'most'} {limit}", verdict]


def _table(result: Result, title: str, columns: Sequence[Column]) -> str:
    return _markdown(title, ("", *(column.title for column in columns)), _rows(result, columns))


def _rows(result: Result, columns: Sequence[Column]) -> list[list[str]]:
    return [
        [subject, *(_cell(result, subject, column) for column in columns)]
        for subject in result.subjects
    ]


def _cell(result: Result, subject: str, column: Column) -> str:
    return _spread(result.values(subject, column.workload, column.figure), column.digits)


def _spread(values: Sequence[float], digits: int) -> str:
    """The median, and the least and the most where they differ from it."""
    if not values:
        return _NONE
    low, middle, high = (
        f"{value:,.{digits}f}" for value in (min(values), median(values), max(values))
    )
    return middle if low == high else f"{middle} ({low}-{high})"


def _markdown(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return f"**{title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _rounded(value: object) -> object:
    match value:
        case float():
            return round(value, 4)
        case dict():
            return {key: _rounded(inner) for key, inner in value.items()}
        case list():
            return [_rounded(inner) for inner in value]
        case _:
            return value
