"""vLLM's start-up, crash and stop lines, in the shapes of the recorded logs."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .options import Options
from .scenario import Phase

_RECORDER_MARK = re.compile(r"^\[ *\d+\.\d{3}\] ?")
_TORN_MARK = "#["
DEAD = (
    "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. "
    "See stack trace (above) for the root cause."
)


def write(line: str) -> None:
    """One line on stdout, at once; blocks when nobody reads the pipe, as vLLM does."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def say(
    text: str, *, level: str = "INFO", where: str = "launcher.py:254", who: str = "APIServer"
) -> None:
    """A line with vLLM's prefix."""
    stamp = time.strftime("%m-%d %H:%M:%S")
    write(f"({who} pid={os.getpid()}) {level} {stamp} [{where}] {text}")


def recorded(path: Path) -> Iterator[str]:
    """The program's own lines of a recorded log (or of any text file)."""
    for line in path.read_text(errors="replace").splitlines():
        if not line.startswith(_TORN_MARK):
            yield _RECORDER_MARK.sub("", line)


def phase(name: Phase, options: Options) -> None:
    """What vLLM prints at the beginning of a phase."""
    _PHASES[name](options)


def _import(_: Options) -> None:
    write("Triton is installed, but doesn't include CPU backend. Disabling Triton.")


def _config(options: Options) -> None:
    rows = (
        "",
        "       █     █     █▄   ▄█",
        " ▄▄ ▄█ █     █     █ ▀▄▀ █  version 0.32.0",
        f"  █▄█▀ █     █     █     █  model   {options.model}",
        "   ▀▀  ▀▀▀▀▀ ▀▀▀▀▀ ▀     ▀",
        "",
    )
    for row in rows:
        say(row, where="api_utils.py:347")
    arguments = {"model_tag": options.model, "host": options.host, "port": options.port}
    arguments |= {"served_model_name": options.served_names}
    say(f"non-default args: {arguments}", where="api_utils.py:286")
    say("Resolved architecture: Qwen2ForCausalLM", where="model.py:733")
    say(f"Using max model len {options.max_model_len}", where="model.py:2152")


def _engine(options: Options) -> None:
    text = f"Initializing a V1 LLM engine (v0.32.0) with config: model='{options.model}'"
    say(text, where="core.py:133", who="EngineCore")


def _weights(options: Options) -> None:
    say(f"Starting to load model {options.model}...", where="cpu_model_runner.py:68", who="Worker")
    shards = "Loading safetensors checkpoint shards:"
    write(f"\n{shards}   0% Completed | 0/2 [00:00<?, ?it/s]")
    write(f"\n{shards}  50% Completed | 1/2 [00:00<00:00, 302.25it/s]")
    write(f"\n{shards} 100% Completed | 2/2 [00:00<00:00, 302.25it/s]\n")
    say("Loading weights took 0.00 seconds", where="default_loader.py:501", who="Worker")
    text = "Model loading took 0.01 GiB memory and 0.005 seconds"
    say(text, where="gpu_model_runner.py:100", who="Worker")


def _compile(_: Options) -> None:
    text = "Warming up model for the compilation..."
    say(text, where="cpu_model_runner.py:87", who="Worker")


def _cache(options: Options) -> None:
    say("Warming up done.", where="cpu_model_runner.py:91", who="Worker")
    text = (
        "CPU KV cache size: 2,097,152 tokens, Maximum concurrency for "
        f"{options.max_model_len:,} tokens per request: {2097152 / options.max_model_len:.2f}x"
    )
    say(text, where="kv_cache_utils.py:2327", who="EngineCore")


def _app(options: Options) -> None:
    text = "init engine (profile, create kv cache, warmup model) took 1.96 s"
    say(text, where="core.py:402", who="EngineCore")
    say("Supported tasks: ['generate']", where="entry.py:136")
    say(f"Starting vLLM server on http://{options.host}:{options.port}", where="entry.py:140")
    say("Available routes are:", where="launcher.py:186")
    say("Route: /v1/chat/completions, Methods: POST", where="launcher.py:195")
    write(f"INFO:     Started server process [{os.getpid()}]")
    write("INFO:     Waiting for application startup.")


_PHASES = {
    Phase.IMPORT: _import,
    Phase.CONFIG: _config,
    Phase.ENGINE: _engine,
    Phase.WEIGHTS: _weights,
    Phase.COMPILE: _compile,
    Phase.CACHE: _cache,
    Phase.APP: _app,
}


def crashed(*, by_request: bool) -> None:
    """The engine's death: a request's fault, or a kill seen from outside."""
    if by_request:
        text = "EngineCore encountered a fatal error."
        say(text, level="ERROR", where="core.py:1512", who="EngineCore")
        text = "Traceback (most recent call last):"
        say(text, level="ERROR", where="core.py:1512", who="EngineCore")
    else:
        text = "[shutdown] MPClient: engine core exited unexpectedly; starting cleanup"
        say(text, level="ERROR", where="core_client.py:760")
    _dead()


def stopping() -> None:
    """The lines of a stop. The EngineDeadError traceback belongs to every normal one, too."""
    say("[shutdown] API server: shutdown triggered")
    text = "[shutdown] API server: stopping engine client mode=abort timeout=0s"
    say(text, where="launcher.py:270")
    _dead()


def stopped() -> None:
    """uvicorn's last lines."""
    write("INFO:     Shutting down")
    write("INFO:     Waiting for application shutdown.")
    write("INFO:     Application shutdown complete.")


def _dead() -> None:
    text = "AsyncLLM output_handler failed."
    say(text, level="ERROR", where="async_llm.py:906")
    say("Traceback (most recent call last):", level="ERROR", where="async_llm.py:906")
    say(DEAD, level="ERROR", where="async_llm.py:906")
