"""What is quoted, what is kept secret, and text that no rule knows."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.errors import Cause
from proxy.vllm.diagnosis import RUN_RULES, START_RULES, diagnose
from proxy.vllm.diagnosis.log_excerpt import MAX_QUOTED_CHARS
from proxy.vllm.flags import known_flags
from tests.proxy.vllm.case import UNSPECIFIC

TAIL = "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s)"


def test_an_unknown_error_is_quoted_from_its_root() -> None:
    failure = diagnose(["ValueError: brand new in /opt/venv/lib/x.py", TAIL], 1, was_ready=False)
    assert failure.cause is Cause.UNKNOWN
    assert failure.message == "The engine could not start (exit code 1): " + (
        "ValueError: brand new in …/x.py"
    )


def test_without_an_error_the_newest_three_lines_are_quoted() -> None:
    lines = [f"(X pid=1) INFO 11-20 10:46:45 [a.py:1] word {n}" for n in range(9)]
    lines += ["", "    ^^^^", '  File "x.py", line 1', "nanobind: leaked 4 instances!"]
    failure = diagnose(lines, 1, was_ready=False)
    assert failure.message.endswith("(exit code 1): word 6 | word 7 | word 8")


def test_a_quotation_is_short_and_keeps_secrets() -> None:
    secrets = ["hf_abcdefgh123", "sk-abcdefgh123", "p4ssw0rd", "s3cr3t", "k3y", "t0ken"]
    error = (
        "ValueError: hf_abcdefgh123 sk-abcdefgh123 https://me:p4ssw0rd@host/x Bearer s3cr3t "
        "'api_key': ['k3y'] s3_secret_access_key='s3cr3t' redis://:p4ssw0rd@h https://t0ken@h "
    )
    error += "x" * 1000
    message = diagnose([error], 1, was_ready=False).message
    assert not [secret for secret in secrets if secret in message]
    assert len(message) < MAX_QUOTED_CHARS + 60


def test_what_stands_beside_an_unknown_flag_is_not_shown() -> None:
    line = "vllm: error: unrecognized arguments: --api-keys s3cr3t --hf-tokn=s3cr3t"
    failure = diagnose([line], 2, was_ready=False)
    assert "--api-keys, --hf-tokn" in failure.message
    assert "s3cr3t" not in failure.message + failure.remedy
    bad = "vllm serve: error: argument --hf-token: invalid str value: 's3cr3t'"
    assert "s3cr3t" not in diagnose([bad], 2, was_ready=False).message


def test_what_happens_while_serving_is_never_permanent() -> None:
    assert not [rule for rule in RUN_RULES if rule.permanent]


# Of the contract, but no flags of vLLM.
OURS = """
    MODEL_NAME MODEL_REVISION HF_TOKEN HF_HOME HF_ENDPOINT HF_HUB_OFFLINE GPU_MEMORY_UTIL
    MAX_BATCHED_TOKENS IMAGE_LIMIT UPSTREAM_PORT WEDGE_SECONDS VLLM_EXTRA_ARGS
"""
# Of vLLM, NCCL and the NVIDIA container toolkit: handed on to the engine as they are.
PASSED_ON = """
    VLLM_CACHE_ROOT VLLM_CPU_KVCACHE_SPACE VLLM_ENGINE_READY_TIMEOUT_S NCCL_DEBUG NCCL_P2P_DISABLE
    NVIDIA_VISIBLE_DEVICES
"""


def test_every_variable_that_is_named_exists() -> None:
    existing = {*OURS.split(), *PASSED_ON.split()} | {
        name.upper().replace("-", "_") for name in known_flags()
    }
    texts = [rule.sentence + " " + rule.remedy for rule in START_RULES + RUN_RULES]
    named = {name for text in texts for name in re.findall(r"\b[A-Z]+(?:_[A-Z0-9]+)+\b", text)}
    assert named - existing == set()


def test_every_rule_says_something_and_what_to_do() -> None:
    assert all(rule.sentence and rule.remedy for rule in START_RULES + RUN_RULES)


@given(
    st.lists(st.text(max_size=200), max_size=20),
    st.one_of(st.none(), st.integers(-70, 255)),
    st.booleans(),
)
def test_random_text_never_raises_and_never_has_a_cause(
    lines: list[str], exit_code: int | None, was_ready: bool
) -> None:
    failure = diagnose(lines, exit_code, was_ready=was_ready)
    assert failure.cause in UNSPECIFIC
    assert not failure.permanent
    assert len(failure.message) < MAX_QUOTED_CHARS + 80


_SCRAPS = (
    *("ValueError: ", "  Value error, ", "CUDA error: ", "out of memory", "(Worker pid=1) "),
    *("vllm serve: error: argument ", "--x", ": ", "ERROR 11-20 10:54:40 [a.py:1] ", "\n"),
    *("Traceback (most recent call last):", "EngineCore encountered a fatal error", "[Errno 28]"),
    *("max_model_len", "0", "1.5", "'", "(", ")", "{", "}", "%", "{0}", "{x}"),
)


@given(st.lists(st.sampled_from(_SCRAPS), max_size=40), st.booleans())
def test_scraps_of_real_output_never_raise(scraps: list[str], was_ready: bool) -> None:
    assert diagnose("".join(scraps).split("\n"), 1, was_ready=was_ready).message


@pytest.mark.parametrize(
    "line", ["a" * 20_000, "a." * 10_000, " " * 20_000, "Value error, (" * 1500, "/a" * 10_000]
)
def test_long_lines_do_not_hold_up_a_restart(line: str) -> None:
    begun = time.process_time()
    diagnose([line] * 300, 1, was_ready=False)
    assert time.process_time() - begun < 5
