"""Where our own CPU time goes: py-spy's samples under one load, else cProfile's counts.

py-spy is looked for in the environment and in bench's cache (`install-peers.sh py-spy`).
cProfile slows what calls much, so its shares lean towards small functions.
"""

from __future__ import annotations

import pstats
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from shutil import which
from threading import Thread

from bench import bodies, loads
from bench.interpreter import interpreter
from bench.process import Child
from bench.report import RESULTS
from bench.rounds import Engine, Run, Stand
from bench.size import FULL, TICK_MS, Size, Target
from bench.subjects import CACHE, SUBJECTS, Address, Launch, Subject

_SAMPLES_PER_SECOND = 500
_SECONDS = 6
_TOP = 40
_LOADS: dict[str, tuple[Callable[[Target, Size], object], Size]] = {
    # 3,000 tokens a stream outlast the samples.
    "tokens": (loads.streams, replace(FULL, tokens=3000, stream_seconds=_SECONDS + 1.0)),
    "requests": (
        loads.requests,
        replace(FULL, requests=1_000_000, request_seconds=_SECONDS + 1.0),
    ),
    "body": (bodies.bodies, replace(FULL, bodies=((20, 1000),))),
}
LOADS = tuple(_LOADS)


def profile(run: Run, name: str, folder: Path) -> str:
    """Run one load against ours; the table is also left in bench/results/raw."""
    load, size = _LOADS[name]
    spy = _py_spy()
    raw = folder / "profile"
    subject = SUBJECTS["ours"] if spy else _under_cprofile(raw)
    with run.engine(TICK_MS) as engine, _started(run, subject, engine) as stand:
        assert stand.target.proxy is not None
        sampling = _sample(spy, stand.target.proxy, raw) if spy else None
        load(stand.target, size)
        if sampling is not None:
            sampling.join(_SECONDS)
    text = _of_samples(raw) if spy else _of_cprofile(raw)
    place = RESULTS / "raw"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"profile-{name}.txt").write_text(text)
    return text


@contextmanager
def _started(run: Run, subject: Subject, engine: Engine) -> Iterator[Stand]:
    with run.started(subject, engine) as stand:
        if stand is None:
            raise RuntimeError(f"ours {run.absent[subject.name]}")
        yield stand


def _py_spy() -> str | None:
    cached = CACHE / "py-spy" / "bin" / "py-spy"
    return str(cached) if cached.exists() else which("py-spy")


def _sample(spy: str, proxy: Child, raw: Path) -> Thread:
    """Samples of the proxy's busy moments, as `frame;frame;frame count` lines."""
    command = [spy, "record", "--pid", str(proxy.pid), "--format", "raw", "--output", str(raw)]
    command += ["--rate", str(_SAMPLES_PER_SECOND), "--duration", str(_SECONDS), "--native"]

    def sample() -> None:
        subprocess.run(command, capture_output=True, timeout=_SECONDS * 3, check=False)

    thread = Thread(target=sample)
    thread.start()
    return thread


def _of_samples(raw: Path) -> str:
    """Shares of the samples: in the function itself, and in it or what it called."""
    own: Counter[str] = Counter()
    inside: Counter[str] = Counter()  # by function, without the line
    for line in raw.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        own[frames[-1]] += int(count)
        functions = {re.sub(r":\d+\)$", ")", frame) for frame in frames}
        inside.update(dict.fromkeys(functions, int(count)))
    total = max(own.total(), 1)
    lines = [f"{total} samples of py-spy, {_SAMPLES_PER_SECOND} a second"]
    for title, counter in (
        ("in the line itself", own),
        ("in the function and what it calls", inside),
    ):
        lines += ["", f"{title}:", *_shares(counter, total)]
    return "\n".join(lines)


def _shares(counter: Counter[str], total: int) -> Iterator[str]:
    for frame, count in counter.most_common(_TOP):
        yield f"{count / total:6.1%}  {frame}"


def _under_cprofile(raw: Path) -> Subject:
    ours = SUBJECTS["ours"]

    def launch(at: Address) -> Launch:
        assert ours.launch is not None
        plain = ours.launch(at)
        command = [interpreter(), "-m", "cProfile", "-o", str(raw), "-m", "proxy"]
        return Launch(command, plain.environ)

    return replace(ours, launch=launch)


def _of_cprofile(raw: Path) -> str:
    out = StringIO()
    pstats.Stats(str(raw), stream=out).sort_stats("tottime").print_stats(_TOP)
    return out.getvalue()
