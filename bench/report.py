"""Results as JSON, and as tables in docs/performance.md between two markers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from bench.result import Result
from bench.subjects import REPOSITORY
from bench.targets import TARGETS, Target

RESULTS = REPOSITORY / "bench" / "results"
PAGE = REPOSITORY / "docs" / "performance.md"
BEGIN = "<!-- bench: written by `make bench`, do not edit -->"
END = "<!-- bench: end -->"
_NONE = "-"


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


def tables(result: Result) -> str:
    """The whole of what stands between the markers."""
    parts = [_heading(result), _targets(result)]
    parts += [_table(result, title, columns) for title, columns in _TABLES.items()]
    return "\n\n".join(part for part in parts if part)


def save(result: Result, *, to_page: bool) -> Path:
    """Write the JSON and, for a full run, the page."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    stamp = result.date.replace(":", "").replace("-", "").removesuffix("Z")
    path = RESULTS / f"{stamp}.json"
    path.write_text(json.dumps(_rounded(asdict(result)), indent=1) + "\n")
    if to_page:
        _write_page(PAGE, tables(result))
    return path


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _write_page(page: Path, text: str) -> None:
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no markers {BEGIN} ... {END}")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")


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


def _targets(result: Result) -> str:
    rows = [
        _target_row(target, value)
        for target in TARGETS
        if (value := target.value(result)) is not None
    ]
    return _markdown("Targets", ("", "measured", "at most", ""), rows) if rows else ""


def _target_row(target: Target, value: float) -> list[str]:
    verdict = "reached" if value <= target.limit else "missed"
    measured, limit = (f"{number:.3g} {target.unit}".strip() for number in (value, target.limit))
    return [target.text, measured, limit, verdict]


def _table(result: Result, title: str, columns: Sequence[Column]) -> str:
    rows = [
        [subject, *(_cell(result, subject, column) for column in columns)]
        for subject in result.subjects
    ]
    return _markdown(title, ("", *(column.title for column in columns)), rows)


def _cell(result: Result, subject: str, column: Column) -> str:
    values = result.values(subject, column.workload, column.figure)
    if not values:
        return _NONE
    low, middle, high = (
        f"{value:,.{column.digits}f}" for value in (min(values), median(values), max(values))
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
