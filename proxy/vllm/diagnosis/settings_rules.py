"""Starts that fail because a variable has a value that vLLM does not take."""

from __future__ import annotations

from proxy.errors import Cause
from proxy.vllm.diagnosis.rule import Rule, error, line

# argparse names an argument by all its forms: `-tp/--tensor-parallel-size`.
_ARGUMENT = r"vllm[^:\n]{0,40}: error: argument (?:[^:\n]*/)?(?P<flag>--[\w.-]+)[^:\n]*: "

SETTING_RULES: tuple[Rule, ...] = (
    Rule(
        Cause.BAD_FLAG,
        line(r"vllm[^:\n]{0,40}: error: unrecognized arguments: (?P<unknown>.+)"),
        "vLLM does not know {flags}.",
        "{advice}",
    ),
    Rule(
        Cause.BAD_FLAG,
        line(
            r"vllm[^:\n]{0,40}: error: ambiguous option: (?P<abbreviation>--[\w.-]+)\S*"
            r" could match (?P<choices>.+)"
        ),
        "{abbreviation} is short for several flags.",
        "Write one of {choices} in VLLM_EXTRA_ARGS.",
    ),
    Rule(
        Cause.BAD_FLAG,
        line(_ARGUMENT + r"invalid choice: '?(?P<value>.+?)'? \(choose from (?P<choices>.+)\)"),
        "{variable} cannot be {value}.",
        "Set {variable} to one of {choices}.",
    ),
    Rule(
        Cause.BAD_FLAG,
        line(_ARGUMENT + r"invalid (?P<type>\w+) value: '?(?P<value>.+?)'?$"),
        "{variable} cannot be {value}.",
        "Correct or unset {variable} (vLLM wants: {type}).",
    ),
    Rule(
        Cause.BAD_FLAG,
        line(_ARGUMENT + r"expected (?:one|at least one|\d+) arguments?"),
        "{variable} ({flag}) has no value.",
        "Give {variable} a value, or remove {flag} from VLLM_EXTRA_ARGS.",
    ),
    Rule(
        Cause.BAD_FLAG,
        line(_ARGUMENT + r"(?P<problem>.+)"),
        "vLLM does not take {variable}: {problem}",
        "Correct or unset {variable}.",
    ),
    Rule(
        Cause.BAD_FLAG,
        line(
            r"(?:\w+\.)*ValidationError: \d+ validation errors? for "
            r"\w+Config\n(?P<field>\w+)\n {1,8}Input (?P<problem>should .+?) "
            r"\[type=\w+, input_value=(?P<value>.+?), input_type="
        ),
        "{variable} cannot be {value}: it {problem}.",
        "Correct or unset {variable}.",
    ),
    Rule(
        Cause.BAD_FLAG,
        error(r"invalid tool call parser: (?P<value>\S+) \(chose from \{(?P<choices>[^}]*)"),
        "TOOL_CALL_PARSER cannot be {value}.",
        "Set TOOL_CALL_PARSER to one of {choices}.",
    ),
    Rule(
        Cause.BAD_FLAG,
        error(
            r"Reasoning parser '(?P<value>[^']+)' not found\. Available parsers: (?P<choices>.*)"
        ),
        "REASONING_PARSER cannot be {value}.",
        "Set REASONING_PARSER to one of {choices}.",
    ),
    Rule(
        Cause.BAD_FLAG,
        error(r"--enable-auto-tool-choice requires --tool-call-parser"),
        "ENABLE_AUTO_TOOL_CHOICE needs a tool call parser.",
        "Set TOOL_CALL_PARSER to the parser of this model, or unset ENABLE_AUTO_TOOL_CHOICE.",
    ),
    Rule(
        Cause.BAD_FLAG,
        error(r"(?P<flag>--[\w-]+) requires (?P<need>[^\n'\"]+)"),
        "{variable} cannot be used alone: it requires {need}.",
        "Unset {variable}, or set what it requires.",
    ),
    Rule(
        Cause.BAD_FLAG,
        error(r"The supplied chat template string \((?P<value>[^)\n]+)\) appears path-like"),
        "The chat template {value} does not exist.",
        "Set CHAT_TEMPLATE to a file that exists in the container.",
    ),
    Rule(
        Cause.BAD_FLAG,
        error(r"Loading lora (?P<name>\S+) failed: No adapter found for (?P<value>[^\s'\"]+)"),
        "The LoRA adapter {name} is not at {value}.",
        "Correct LORA_MODULES, or mount the adapter there.",
    ),
    Rule(
        Cause.BAD_FLAG,
        error(
            r"Total number of attention heads \((?P<heads>\d{1,6})\)"
            r" must be divisible by tensor parallel size \((?P<size>\d{1,6})\)"
        ),
        "TENSOR_PARALLEL_SIZE={size} does not divide the {heads} attention heads of this model.",
        "Set TENSOR_PARALLEL_SIZE to {divisors}.",
    ),
    Rule(
        Cause.BAD_FLAG,
        # [C] vllm/platforms/cuda.py
        error(
            r"Bfloat16 is only supported on GPUs with compute capability of at least 8\.0\. "
            r"Your (?P<device>.+?) GPU (?:has|does)"
        ),
        "The {device} cannot compute in bfloat16.",
        "Set DTYPE=half.",
    ),
    Rule(
        Cause.PORT_IN_USE,
        error(r"\[Errno 98\] .*[Aa]ddress already in use"),
        "Another process holds the engine's port.",
        "Set UPSTREAM_PORT to a free port, or stop the process that holds it.",
        # The engine that was killed a moment ago may hold it: a retry is of use.
        permanent=False,
    ),
    Rule(
        Cause.CONTEXT_TOO_LONG,
        error(
            r"User-specified max_model_len \((?P<asked>\d+)\) is greater than the derived "
            r"max_model_len \((?:\w+=None or )?\w+=(?P<tokens>\d+)"
        ),
        "MAX_MODEL_LEN={asked} is longer than this model's context of {tokens} tokens.",
        "Set MAX_MODEL_LEN={tokens} or less.",
    ),
)
