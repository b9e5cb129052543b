"""What vLLM printed, made fit for a sentence: names of variables, choices, values that fit."""

from __future__ import annotations

import math
from difflib import get_close_matches

from proxy.settings.environment import names_secret, without_secrets
from proxy.vllm.flags import flag_name, known_flags

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


def clip(text: str, limit: int = _MAX_VALUE_CHARS) -> str:
    """`text` on one line, cut to `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit - 1] + "…"


def variable_of(flag: str) -> str:
    """The environment variable that sets a flag: `--max-model-len` -> MAX_MODEL_LEN."""
    name = flag.lstrip("-").partition("=")[0].replace("_", "-").lower()
    return _VARIABLES.get(name, name.replace("-", "_").replace(".", "_").upper())


def facts_of(groups: dict[str, str]) -> dict[str, str]:
    """The groups of a rule as they may be shown, and what follows from them."""
    is_secret = names_secret(groups.get("flag", groups.get("field", "")))
    facts = {
        name: "***" if is_secret and name in ("value", "problem") else clip(without_secrets(text))
        for name, text in groups.items()
    }
    facts |= {"space": "", "gpu_memory": "", "fit": "", "shorten": "Lower MAX_MODEL_LEN,"}
    if "size" in facts and "left" in facts:
        facts["space"] = f": {facts['size']} are needed, {facts['left']} are free"
    if "gpu" in facts:
        memory = f"{facts['left']} of {facts['capacity']} free"
        facts["gpu_memory"] = f" (GPU {facts['gpu']}: {memory})"
    if flag := groups.get("flag") or groups.get("field"):
        facts["variable"] = variable_of(flag)
    if "unknown" in groups:
        facts["flags"], facts["advice"] = _unknown_flags(groups["unknown"])
    if "choices" in groups:
        words = [word.strip(" '\"[]{}") for word in groups["choices"].split(",")]
        words = [clip(word, 40) for word in words if word]
        more = len(words) - _MAX_CHOICES
        shown = ", ".join(words[:_MAX_CHOICES])
        facts["choices"] = shown + (f" or {more} more" if more > 0 else "")
    if "type" in groups:
        # The name of the function that parses it: human_readable_int_or_auto.
        facts["type"] = groups["type"].strip("_").replace("_", " ")
    if "tokens" in groups:
        # vLLM prints max_position_embeddings as a float: 2048.0.
        facts["tokens"] = groups["tokens"].partition(".")[0]
    if "longest" in groups:
        facts["shorten"] = f"MAX_MODEL_LEN={groups['longest']} fits. Or"
    if (total := float(groups.get("total", 0))) > 0:
        share = math.floor(100 * float(groups["free"]) / total) / 100
        if share >= _SMALLEST_USEFUL_SHARE:
            facts["fit"] = f"GPU_MEMORY_UTIL={share:.2f} fits what is free now. Or: "
    if "driver" in groups:
        # torch prints 12020 for a driver that knows CUDA 12.2.
        version = int(groups["driver"])
        facts["cuda"] = f"{version // 1000}.{version % 1000 // 10}"
    if "heads" in groups:
        heads, size = int(groups["heads"]), int(groups["size"])
        divisors = [str(n) for n in range(1, min(heads, size, 64) + 1) if heads % n == 0]
        facts["divisors"] = " or ".join(divisors[-3:]) or "1"
    for name in ("capability", "least"):
        if name in groups:
            # vLLM prints 75 for compute capability 7.5, 100 for 10.0.
            facts[f"{name}_dotted"] = f"{groups[name][:-1] or 0}.{groups[name][-1]}"
    return facts


def _unknown_flags(arguments: str) -> tuple[str, str]:
    """The flags that vLLM does not have, and what to do about them."""
    # Only the names: what stands beside an unknown flag may be a secret.
    flags = [word.partition("=")[0] for word in arguments.split() if word.startswith("-")]
    shown = [clip(flag, 60) for flag in dict.fromkeys(flags)][:_MAX_FLAGS]
    if not shown:
        return "a word that belongs to no flag", "Check the quotes in VLLM_EXTRA_ARGS."
    names = [f"--{name}" for name in known_flags()]
    nearest = [
        near
        for flag in shown
        for near in get_close_matches(f"--{flag_name(flag.lstrip('-'))}", names, n=1, cutoff=0.75)
    ]
    if not nearest:
        return ", ".join(shown), "Remove it from VLLM_EXTRA_ARGS, or correct its name."
    meant = ", ".join(f"{flag} ({variable_of(flag)})" for flag in nearest)
    return ", ".join(shown), f"Did you mean {meant}? Correct VLLM_EXTRA_ARGS."
