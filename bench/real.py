"""The stock client against real vLLM, through the sidecar and past it: `bench --real`.

One sidecar starts one engine with the demo model; `vllm bench serve` goes to the sidecar's
port or to the engine's own, in turn, and through HAProxy, where it is installed: what a proxy
costs that reads nothing of what it passes on. Nothing is pinned: engine, client and proxy share
the machine, as they do in use.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from shutil import which
from time import monotonic, sleep
from typing import Any

from bench.client import exchange
from bench.figures import Figures
from bench.interpreter import interpreter, packages
from bench.process import Child, free_port, running
from bench.rounds import Measured, say
from bench.subjects import REPOSITORY, SUBJECTS, Address

WORKLOAD = "real"
PEERS = ("haproxy",)
_READY_SECONDS = 180.0
_CLIENT_SECONDS = 90.0
_STOP_SECONDS = 20.0
_ASK_SECONDS = 5.0
# Nobody is asked for anything outside this machine, or told of the run.
QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Load:
    """One measurement: so many requests, so many of them at once; lengths in tokens."""

    streams: int = 64
    requests: int = 512
    prompt_tokens: int = 64
    answer_tokens: int = 128
    warm_up_requests: int = 64


FULL = Load()
QUICK = Load(requests=128)


@dataclass(frozen=True)
class Service:
    """The engine that a sidecar started, and all the ways to it; `model` is where its files are."""

    ports: Mapping[str, int]
    proxies: Mapping[str, Child]
    """Those of `ports` that are proxies."""
    name: str
    model: str


def vllm_version() -> str | None:
    """None where there is no vLLM to measure with."""
    try:
        return installed_version("vllm") if which("vllm", path=_path()) else None
    except PackageNotFoundError:
        return None


def run(folder: Path, load: Load, rounds: int, seconds: float) -> list[Measured]:
    """Measure as many of the rounds as fit into the time.

    Raises:
        RuntimeError: the sidecar did not become ready, or the client failed.
    """
    end = monotonic() + seconds
    measured: list[Measured] = []
    longest = 0.0
    with started(folder) as service:
        subjects = tuple(service.ports)
        for number in range(rounds):
            first = number % len(subjects)  # another one in each round
            for subject in subjects[first:] + subjects[:first]:
                before = monotonic()
                if before + longest > end:
                    say(f"round {number + 1}, {subject}: left out, the time is over")
                    continue
                figures = _measure(service, subject, folder, load, seed=number)
                measured.append(Measured(subject, number + 1, {WORKLOAD: figures}))
                longest = max(longest, monotonic() - before)
                say(f"round {number + 1}, {subject}: {monotonic() - before:.1f} s")
    return measured


@contextmanager
def started(folder: Path) -> Iterator[Service]:
    """`python -m proxy` with the demo model, once it is ready."""
    port, engine_port = free_port(), free_port()
    environ = {
        "PATH": _path(),
        "MODEL_NAME": "demo",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "UPSTREAM_PORT": str(engine_port),
        "HF_HOME": str(folder / "huggingface"),
        "LOG_FORMAT": "json",
        **QUIET,
        **packages(),
    }
    log = folder / "sidecar.log"
    child = Child([interpreter(), "-m", "proxy"], environ=environ, log=log, folder=REPOSITORY)
    with running(child, stop_seconds=_STOP_SECONDS):
        before = monotonic()
        _wait_until_ready(child, port)
        say(f"vLLM: ready after {monotonic() - before:.0f} s")
        models = _ask(port, "/v1/models")[1]
        model = json.loads(models)["data"][0]
        ports, proxies = {"direct": engine_port, "ours": port}, {"ours": child}
        with ExitStack() as stack:
            for name in peers():
                ports[name], peer = _peer(name, engine_port, folder)
                proxies[name] = stack.enter_context(running(peer))
            yield Service(ports, proxies, model["id"], model["root"])


def peers() -> dict[str, str]:
    """Those that are installed, and their versions."""
    found = {name: SUBJECTS[name].version() for name in PEERS}
    return {name: version for name, version in found.items() if version is not None}


def _peer(name: str, engine_port: int, folder: Path) -> tuple[int, Child]:
    at = Address(free_port(), free_port(), engine_port, folder / "no.sock", folder)
    launch = SUBJECTS[name].launch
    assert launch is not None, f"{name} is no proxy"
    started = launch(at)
    log = folder / f"{name}.log"
    return at.port, Child(started.command, environ=started.environ, log=log, folder=REPOSITORY)


def client_command(service: Service, subject: str, load: Load, *, seed: int) -> list[str]:
    """`vllm bench serve` as its users run it; the result goes to `result.json`."""
    options = {
        "backend": "openai-chat",
        "base-url": f"http://127.0.0.1:{service.ports[subject]}",
        "endpoint": "/v1/chat/completions",
        "model": service.name,
        "tokenizer": service.model,
        "dataset-name": "random",
        "random-input-len": load.prompt_tokens,
        "random-output-len": load.answer_tokens,
        "num-prompts": load.requests,
        "max-concurrency": load.streams,
        "num-warmups": load.warm_up_requests,
        "seed": seed,
        "metric-percentiles": "99",
        "result-filename": "result.json",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    vllm = which("vllm", path=_path()) or "vllm"
    return [vllm, "bench", "serve", *words, "--ignore-eos", "--save-result", "--disable-tqdm"]


def figures_of(result: Mapping[str, Any]) -> Figures:
    """What `vllm bench serve` has measured, by our names; times in ms."""
    return {
        "done": float(result["completed"]),
        "failed": float(result["failed"]),
        "seconds": float(result["duration"]),
        "tokens": float(result["total_output_tokens"]),
        "tokens_per_second": float(result["output_throughput"]),
        "ttft_p50_ms": float(result["median_ttft_ms"]),
        "ttft_p99_ms": float(result["p99_ttft_ms"]),
        "itl_p50_ms": float(result["median_itl_ms"]),
        "itl_p99_ms": float(result["p99_itl_ms"]),
    }


def _measure(service: Service, subject: str, folder: Path, load: Load, *, seed: int) -> Figures:
    log, result = folder / "client.log", folder / "result.json"
    result.unlink(missing_ok=True)
    command = client_command(service, subject, load, seed=seed)
    proxy = service.proxies.get(subject)
    cpu_before = proxy.own_cpu_seconds() if proxy else 0.0
    child = Child(command, environ={"PATH": _path(), **QUIET}, log=log, folder=folder)
    with running(child):
        code = child.wait(_CLIENT_SECONDS)
    if code != 0 or not result.exists():
        raise RuntimeError(f"vllm bench serve ended with {code}:\n{_end_of(log)}")
    figures = figures_of(json.loads(result.read_text()))
    if proxy is not None:
        # With that of the warm-up, whose tokens the client does not count.
        tokens = figures["tokens"] + load.warm_up_requests * load.answer_tokens
        cpu_seconds = proxy.own_cpu_seconds() - cpu_before
        figures["cpu_us_per_token"] = cpu_seconds * 1e6 / tokens
    return figures


def _wait_until_ready(child: Child, port: int) -> None:
    end = monotonic() + _READY_SECONDS
    while _ask(port, "/health/ready")[0] != 200:
        if not child.alive or monotonic() > end:
            raise RuntimeError(f"the sidecar did not become ready:\n{_end_of(child.log)}")
        sleep(0.5)


def _ask(port: int, path: str) -> tuple[int, bytes]:
    """Status and body; (0, b"") where there is no answer."""
    request = f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode()
    answer = exchange(port, request, _ASK_SECONDS)
    if answer is None:
        return 0, b""
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def _path() -> str:
    """The commands of our own environment first."""
    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"


def _end_of(log: Path) -> str:
    lines: Sequence[str] = log.read_text(errors="replace").splitlines()
    return "\n".join(lines[-15:])
