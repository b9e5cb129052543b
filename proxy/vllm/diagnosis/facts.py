"""Words for a diagnosis, made from what vLLM printed: variable names, choices, values that fit."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection

_MAX_VALUE_CHARS = 120
_MAX_CHOICES = 10
_MAX_FLAGS = 3
_SMALLEST_USEFUL_SHARE = 0.1

# Where the sidecar's name of a flag is not simply its upper case.
_VARIABLES = {
    "model": "MODEL_NAME",
    "model-tag": "MODEL_NAME",
    "revision": "MODEL_REVISION",
    "gpu-memory-utilization": "GPU_MEMORY_UTIL",
    "max-num-batched-tokens": "MAX_BATCHED_TOKENS",
    "port": "UPSTREAM_PORT",
}
_SECRET_NAME = re.compile(r"token$|key$|password|secret|credential|authorization", re.IGNORECASE)
_SECRETS = (
    (re.compile(r"\bhf_\w{6,}"), "hf_***"),
    (re.compile(r"\bsk-[\w-]{6,}"), "sk-***"),
    (re.compile(r"(\bBearer\s+)\S+", re.IGNORECASE), r"\1***"),
    (re.compile(r"(://)[^/\s:@]+:[^/\s@]+@"), r"\1***@"),
    (
        re.compile(
            r"(\b\w*(?:token|api[_-]?key|password|secret)['\"]?\s{0,3}[=:]\s{0,3})"
            r"(?:\[[^\]]*\]|'[^']*'|\"[^\"]*\"|[^\s,)}\]]+)",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
)


def redact(text: str) -> str:
    """`text` without anything that looks like a token, a key or a password."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def clip(text: str, limit: int = _MAX_VALUE_CHARS) -> str:
    """`text` on one line, cut to `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def variable_of(flag: str) -> str:
    """The environment variable that sets a flag: `--max-model-len` -> MAX_MODEL_LEN."""
    name = flag.lstrip("-").partition("=")[0].replace("_", "-").lower()
    return _VARIABLES.get(name, name.replace("-", "_").replace(".", "_").upper())


def nearest_flag(flag: str, known_flags: Collection[str]) -> str | None:
    """The known flag that `flag` was most likely meant to be."""
    wanted = "--" + flag.lstrip("-").replace("_", "-").lower()
    names = ["--" + known.lstrip("-").replace("_", "-") for known in known_flags]
    return next(iter(difflib.get_close_matches(wanted, names, n=1, cutoff=0.75)), None)


def facts_of(groups: dict[str, str], known_flags: Collection[str]) -> dict[str, str]:
    """The groups as they may be shown, and what follows from them."""
    secret = _SECRET_NAME.search(groups.get("flag", groups.get("field", "")))
    facts = {
        name: "***" if secret and name in ("value", "problem") else clip(redact(text))
        for name, text in groups.items()
    }
    facts |= {"space": _space(facts), "gpu_memory": _gpu_memory(facts)}
    for needed, derive in _DERIVED.items():
        if needed in groups:
            facts |= derive(groups)
    return facts | (_unknown_flags(groups["unknown"], known_flags) if "unknown" in groups else {})


def _unknown_flags(arguments: str, known_flags: Collection[str]) -> dict[str, str]:
    # Only the names: what stands beside an unknown flag may be a secret.
    flags = [word.partition("=")[0] for word in arguments.split() if word.startswith("-")]
    shown = [clip(flag, 60) for flag in dict.fromkeys(flags)][:_MAX_FLAGS]
    if not shown:
        where = "a word that belongs to no flag"
        return {"flags": where, "advice": "Check the quotes in VLLM_EXTRA_ARGS."}
    return {"flags": ", ".join(shown), "advice": _advice(shown, known_flags)}


def _advice(flags: list[str], known_flags: Collection[str]) -> str:
    meant = [near for flag in flags if (near := nearest_flag(flag, known_flags))]
    if not meant:
        return "Remove it from VLLM_EXTRA_ARGS, or correct its name."
    names = ", ".join(f"{flag} ({variable_of(flag)})" for flag in meant)
    return f"Did you mean {names}? Correct VLLM_EXTRA_ARGS."


def _space(facts: dict[str, str]) -> str:
    if "size" not in facts or "left" not in facts:
        return ""
    return f": {facts['size']} are needed, {facts['left']} are free"


def _gpu_memory(facts: dict[str, str]) -> str:
    if "gpu" not in facts:
        return ""
    return f" (GPU {facts['gpu']}: {facts['left']} of {facts['capacity']} free)"


def _variable(groups: dict[str, str]) -> dict[str, str]:
    return {"variable": variable_of(groups.get("flag") or groups["field"])}


def _choices(groups: dict[str, str]) -> dict[str, str]:
    words = [word.strip(" '\"[]{}") for word in groups["choices"].split(",")]
    words = [word for word in words if word]
    more = len(words) - _MAX_CHOICES
    shown = ", ".join(clip(word, 40) for word in words[:_MAX_CHOICES])
    return {"choices": shown + (f" or {more} more" if more > 0 else "")}


def _whole_tokens(groups: dict[str, str]) -> dict[str, str]:
    # vLLM prints max_position_embeddings as a float: 2048.0.
    return {"tokens": groups["tokens"].partition(".")[0]}


def _share_that_fits(groups: dict[str, str]) -> dict[str, str]:
    total = float(groups["total"])
    share = math.floor(100 * float(groups["free"]) / total) / 100 if total else 0.0
    if share < _SMALLEST_USEFUL_SHARE:
        return {"fit": ""}
    return {"fit": f"GPU_MEMORY_UTIL={share:.2f} fits what is free now. Or: "}


def _cuda_version(groups: dict[str, str]) -> dict[str, str]:
    # torch prints 12020 for a driver that knows CUDA 12.2.
    number = int(groups["driver"])
    return {"cuda": f"{number // 1000}.{number % 1000 // 10}"}


def _capabilities(groups: dict[str, str]) -> dict[str, str]:
    # vLLM prints 75 for compute capability 7.5, 100 for 10.0.
    names = ("capability", "least")
    return {f"{name}_dotted": f"{groups[name][:-1] or 0}.{groups[name][-1]}" for name in names}


def _divisors(groups: dict[str, str]) -> dict[str, str]:
    heads, size = int(groups["heads"]), int(groups["size"])
    fits = [str(n) for n in range(1, min(heads, size, 64) + 1) if heads % n == 0]
    return {"divisors": " or ".join(fits[-3:]) or "1"}


def _type_in_words(groups: dict[str, str]) -> dict[str, str]:
    # The name of the function that parses it: human_readable_int_or_auto.
    return {"type": groups["type"].strip("_").replace("_", " ")}


_DERIVED = {
    "type": _type_in_words,
    "flag": _variable,
    "field": _variable,
    "choices": _choices,
    "tokens": _whole_tokens,
    "total": _share_that_fits,
    "driver": _cuda_version,
    "heads": _divisors,
    "capability": _capabilities,
}
