"""The command line (`vllm serve`'s, as far as a fake needs it) and the environment."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

DEFAULT_MODEL = "Qwen/Qwen3-0.6B"
KEEP_ALIVE_SECONDS = 5.0


@dataclass(frozen=True)
class Options:
    """What the command line says. Flags of vLLM that are not here are accepted and ignored."""

    serve: bool = False
    """Started as `serve MODEL`: prints a start-up log and takes time for it."""
    model: str = DEFAULT_MODEL
    served_names: list[str] = field(default_factory=lambda: [DEFAULT_MODEL])
    host: str = "127.0.0.1"
    port: int = 8000
    uds: str | None = None
    also_tcp: bool = False
    """With --uds, listen on the port as well (vLLM does not)."""
    max_model_len: int = 1024
    max_num_seqs: int = 0
    """Generations at once; more wait, head sent, as in vLLM. 0: no limit."""
    api_keys: list[str] = field(default_factory=list)
    access_log: bool = True
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    tick_ms: float = 0.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vllm", allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--uds")
    parser.add_argument("--model")
    parser.add_argument("--served-model-name", nargs="+")
    parser.add_argument("--max-model-len", default="1024")
    parser.add_argument("--max-num-seqs", type=int, default=0)
    parser.add_argument("--api-key", nargs="+", default=[])
    parser.add_argument("--disable-uvicorn-access-log", action="store_true")
    fake = parser.add_argument_group("of the fake only")
    fake.add_argument("--tick-ms", type=float, default=0.0)
    fake.add_argument("--also-tcp", action="store_true")
    return parser


def _length(text: str) -> int:
    """A number of tokens; `auto` is 1024."""
    return int(text) if text.isdecimal() else 1024


def parse(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Read a command line. `_` in flag names is taken for `-`, as vLLM does."""
    words = [_dashed(word) for word in arguments]
    serve = words[:1] == ["serve"]
    rest = words[1:] if serve else words
    positional = rest.pop(0) if serve and rest and not rest[0].startswith("-") else None
    known, _ = _parser().parse_known_args(rest)
    model = positional or known.model or DEFAULT_MODEL
    return Options(
        serve=serve,
        model=model,
        served_names=known.served_model_name or [model],
        host=known.host,
        port=known.port,
        uds=known.uds,
        also_tcp=known.also_tcp,
        max_model_len=_length(known.max_model_len),
        max_num_seqs=known.max_num_seqs,
        api_keys=known.api_key,
        access_log=not known.disable_uvicorn_access_log and not known.tick_ms,
        keep_alive_seconds=float(
            environment.get("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", KEEP_ALIVE_SECONDS)
        ),
        tick_ms=known.tick_ms,
    )


def _dashed(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word
