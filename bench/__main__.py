"""`python -m bench`: measure side by side, print tables, write them down.

--only ours,haproxy   these alone          --rounds 3    how often each is measured
--quick               small loads, one round, nothing written into docs/
--scale               1 to 4,096 connections    BENCH_BEFORE=DIR adds `before`: another checkout
--profile tokens|requests|body             where our own CPU time goes
--real                real vLLM            --clock       the log's clock against a client's own
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench import clock, machine, profile, real, report, scale
from bench.result import Result
from bench.rounds import Run
from bench.size import FULL, QUICK
from bench.subjects import DEFAULT, SUBJECTS, Subject

# A default run takes about five minutes; what does not fit is left out and said.
SECONDS = 330
QUICK_SECONDS = 90
# With the start of the engine; three rounds take about four minutes.
REAL_SECONDS = 540
# Past the end by a stuck process: leave all the same, ending what was started.
_GRACE_SECONDS = 25


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    if options.real:
        return _measure_real(options)
    if options.clock:
        return _compare_clocks(options)
    seconds = QUICK_SECONDS if options.quick else SECONDS
    _end_at_signals(seconds + _GRACE_SECONDS)
    machine.allow_many_files()
    cores = machine.cores()
    os.sched_setaffinity(0, {cores.others})
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        run = Run(Path(folder), cores, QUICK if options.quick else FULL, seconds)
        if options.profile:
            print(profile.profile(run, options.profile, Path(folder)))
            return 0
        if options.scale:
            print(scale.table(run, [SUBJECTS[name] for name in options.only]))
            return 0
        return _measure(run, options)


def _measure(run: Run, options: argparse.Namespace) -> int:
    on = machine.describe()
    subjects = [SUBJECTS[name] for name in options.only]
    run.run(subjects, options.rounds or (1 if options.quick else 3))
    result = Result(report.now(), on, _versions(subjects), run.absent, run.measured)
    print(report.tables(result))
    if not options.quick:
        print(f"\nwritten: {report.save(result)}", file=sys.stderr)
        if set(DEFAULT) <= {*options.only}:
            report.write_page(report.SIDE_BY_SIDE, report.tables(result))
    return 0 if run.measured else 1


def _measure_real(options: argparse.Namespace) -> int:
    vllm = real.vllm_version()
    if vllm is None:
        print("bench: vLLM is not installed, nothing to measure with --real", file=sys.stderr)
        return 1
    _end_at_signals(REAL_SECONDS + _GRACE_SECONDS)
    on = machine.describe()
    rounds = options.rounds or (1 if options.quick else 3)
    load = real.QUICK if options.quick else real.FULL
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            measured = real.run(Path(folder), load, rounds, REAL_SECONDS)
        except RuntimeError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    versions = {"direct": f"vllm {vllm}", "ours": SUBJECTS["ours"].version() or "unknown"}
    versions |= real.peers()
    result = Result(report.now(), on, versions, {}, measured)
    print(report.real_tables(result))
    if not options.quick:
        print(f"\nwritten: {report.save(result, kind='-real')}", file=sys.stderr)
        report.write_page(report.WITH_VLLM, report.real_tables(result))
    return 0


def _compare_clocks(options: argparse.Namespace) -> int:
    _end_at_signals(REAL_SECONDS)
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        try:
            print(clock.run(Path(folder), 50 if options.quick else clock.STREAMS))
        except RuntimeError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
    return 0


def _versions(subjects: Sequence[Subject]) -> dict[str, str]:
    return {subject.name: subject.version() or "absent" for subject in subjects}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", type=_names, default=DEFAULT, metavar="NAMES")
    parser.add_argument("--rounds", type=int, metavar="N")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--profile", choices=profile.LOADS)
    parser.add_argument("--scale", action="store_true")
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--clock", action="store_true")
    return parser


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in names if name not in SUBJECTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(SUBJECTS)}")
    return names


def _end_at_signals(seconds: int) -> None:
    """Leave by an exception, so that every `finally` ends what it started."""

    def leave(number: int, _: object) -> None:
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, leave)
    signal.alarm(seconds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
