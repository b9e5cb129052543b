"""What real vLLM printed when it failed -> the cause that a user reads."""

from __future__ import annotations

import pytest

from proxy.errors import Cause, EngineFailure
from proxy.vllm.diagnosis import RUN_RULES, START_RULES, diagnose
from proxy.vllm.diagnosis.log_excerpt import MAX_QUOTED_CHARS, errors
from proxy.vllm.log_lines import parse_line
from tests.proxy.vllm.case import UNSPECIFIC, Case, assert_explained
from tests.proxy.vllm.recording import SERVED, recorded, recording

RECORDED = {
    "B_bad_choice_dtype": Case(Cause.BAD_FLAG, True, "DTYPE cannot be float4", "auto, bfloat16"),
    "B_bad_gpu_util": Case(
        Cause.BAD_FLAG, True, "GPU_MEMORY_UTIL cannot be 1.5", "unset GPU_MEMORY_UTIL"
    ),
    "B_bad_int": Case(Cause.BAD_FLAG, True, "MAX_MODEL_LEN cannot be abc", "MAX_MODEL_LEN"),
    "B_hub_503": Case(Cause.HUB_UNREACHABLE, False, "503 Service Unavailable", "HF_ENDPOINT"),
    "B_hub_diskfull": Case(
        Cause.DISK_FULL, True, "full: 0.86 MB are needed, 0.56 MB are free", "HF_HOME"
    ),
    "B_hub_gated_notoken": Case(
        Cause.MODEL_GATED, True, "Access to model gated/tiny is restricted", "HF_TOKEN"
    ),
    "B_hub_missing_token": Case(Cause.MODEL_NOT_FOUND, True, "8119/missing/tiny/", "TOKENIZER"),
    "B_hub_refused": Case(
        Cause.HUB_UNREACHABLE, False, "off: [Errno 111] Connection refused", "HF_ENDPOINT"
    ),
    "B_hub_stall": Case(Cause.HUB_UNREACHABLE, False, "broke off: timed out", "HF_ENDPOINT"),
    # MODEL_NAME is right here.
    "B_hub_tokenizer": Case(
        Cause.MODEL_NOT_FOUND, True, "8119/no/such/", "check what names a repository (TOKENIZER, "
    ),
    "B_kv_too_big": Case(
        Cause.OUT_OF_MEMORY,
        True,
        "200.0 GiB was asked for, but only 8.59",
        "VLLM_CPU_KVCACHE_SPACE",
    ),
    "B_lora_missing": Case(Cause.BAD_FLAG, True, "adapter a is not at /nope", "LORA_MODULES"),
    "B_maxlen_too_big": Case(
        Cause.CONTEXT_TOO_LONG, True, "MAX_MODEL_LEN=4096", "Set MAX_MODEL_LEN=2048 or less"
    ),
    "B_missing_package": Case(
        Cause.MISSING_PACKAGE, True, "not installed: torchvision.", "fits the installed torch"
    ),
    "B_model_abs_missing": Case(
        Cause.MODEL_NOT_FOUND, True, "'/models/llama'", "check what names a repository"
    ),
    "B_noconfig": Case(Cause.MODEL_NOT_FOUND, True, "there is no config.json", "MODEL_NAME"),
    "B_noweights": Case(Cause.MODEL_NOT_FOUND, True, "/models/noweights holds no weights", "MODEL"),
    "B_offline_not_cached": Case(
        Cause.MODEL_NOT_FOUND, True, "HF_HUB_OFFLINE forbids", "Unset HF_HUB_OFFLINE"
    ),
    "B_port_in_use": Case(Cause.PORT_IN_USE, False, "holds the engine's port", "UPSTREAM_PORT"),
    "B_shm_small": Case(
        Cause.DISK_FULL, True, "too small: 160 MiB are needed, 62 MiB are free", "--shm-size"
    ),
    "B_st_trunc": Case(Cause.CORRUPT_FILE, True, "cut off or damaged", "fetch it again"),
    "B_tmpl_missing": Case(Cause.BAD_FLAG, True, "./nope.jinja does not exist", "CHAT_TEMPLATE"),
    "B_toolparser_unknown": Case(
        Cause.BAD_FLAG, True, "TOOL_CALL_PARSER cannot be nope", "apertus, cohere_command3"
    ),
    "B_tp2": Case(Cause.TOO_FEW_GPUS, True, "2 workers", "TENSOR_PARALLEL_SIZE=1"),
    "B_trustremote": Case(
        Cause.TRUST_REMOTE_CODE, True, "needs Python code of its own", "TRUST_REMOTE_CODE=true"
    ),
    "B_unknown_flag_typo": Case(
        Cause.BAD_FLAG, True, "know --max-modle-len.", "--max-model-len (MAX_MODEL_LEN)"
    ),
    "B_unsup_arch": Case(Cause.UNSUPPORTED_MODEL, True, "FooBarForCausalLM", "MODEL_NAME"),
    "C_crash_by_request": Case(
        Cause.CRASHED, False, "crashed on a request: Unsupported CPU attention", "image or model"
    ),
    "C_kill9_api": Case(Cause.KILLED, False, "killed (signal 9)", "memory"),
    "C_kill9_engine": Case(Cause.KILLED, False, "core process vanished", "memory"),
    "C_kill9_worker": Case(Cause.KILLED, False, "worker process vanished", "memory"),
    "C_start_kill9_engine_load": Case(Cause.KILLED, False, "vanished while it started", "memory"),
    # Recordings that the recorder itself ended with SIGKILL, hanging or stopped.
    "C_start_term_weights": Case(Cause.KILLED, False, "killed (signal 9)", "memory"),
    "C_stop_engine_30": Case(Cause.KILLED, False, "killed (signal 9)", "memory"),
    # Healthy engines that got SIGTERM: no crash, though some print EngineDeadError.
    "B_hub_ok": Case(Cause.KILLED, False, "asked to stop", "signals"),
    "B_kv_bytes_small": Case(Cause.KILLED, False, "asked to stop", "signals"),
    "B_kv_bytes_tiny": Case(Cause.KILLED, False, "asked to stop", "signals"),
    "B_notok": Case(Cause.KILLED, False, "asked to stop", "signals"),
    "C_rep_termmany_0": Case(Cause.KILLED, False, "asked to stop", "signals"),
    "C_term_default": Case(Cause.KILLED, False, "asked to stop", "signals"),
    "C_term_drain20_short": Case(Cause.KILLED, False, "asked to stop", "signals"),
}


def diagnose_recording(name: str) -> EngineFailure:
    run = recording(name)
    return diagnose(run.lines, run.exit_code, was_ready=SERVED in run.lines)


def test_every_recorded_failure_is_in_the_table() -> None:
    assert sorted(RECORDED) == sorted(recorded("B") + recorded("C"))


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_a_recorded_failure_is_reported_in_short_and_plain_words(name: str) -> None:
    failure = diagnose_recording(name)
    assert_explained(failure, RECORDED[name])
    for text in (failure.message, failure.remedy):
        assert 0 < len(text) < MAX_QUOTED_CHARS
        assert text.endswith((".", "?", "kv_cache_idx=0"))
        for leak in ("Traceback", "site-packages", "pid=", "hf_not_a_token", "{", "\n"):
            assert leak not in text


@pytest.mark.parametrize("name", recorded("A"))
def test_a_start_that_goes_well_but_too_slowly_is_only_that(name: str) -> None:
    lines = recording(name).lines
    for end in (1, 20, lines.index(SERVED)):
        failure = diagnose(lines[:end], None, was_ready=False)
        assert failure.cause is Cause.START_TIMEOUT
        assert not failure.permanent


@pytest.mark.parametrize("name", [*recorded("A"), "B_hub_ok", "B_notok", "C_stop_engine_30"])
def test_no_rule_fits_the_output_of_a_healthy_engine(name: str) -> None:
    text = errors(map(parse_line, recording(name).lines))
    assert [rule for rule in START_RULES + RUN_RULES if rule.groups_in(text) is not None] == []


@pytest.mark.parametrize("name", sorted(RECORDED))
@pytest.mark.parametrize("kept", [0.7, 0.4, 0.2])
def test_when_the_oldest_lines_are_lost_no_other_cause_is_reported(name: str, kept: float) -> None:
    run = recording(name)
    newest = run.lines[-int(len(run.lines) * kept) :]
    cause = diagnose(newest, run.exit_code, was_ready=SERVED in run.lines).cause
    assert cause in {RECORDED[name].cause, *UNSPECIFIC}


def test_an_engine_that_stays_silent_is_wedged() -> None:
    run = recording("C_stop_engine_30")
    assert diagnose(run.lines, None, was_ready=True).cause is Cause.WEDGED


def test_an_engine_that_dies_on_the_warm_up_request_has_crashed() -> None:
    run = recording("C_crash_by_request")
    failure = diagnose(run.lines, 0, was_ready=False)
    assert failure.cause is Cause.CRASHED
    assert "crashed on its first request: Unsupported CPU attention" in failure.message


def test_a_worker_that_is_killed_before_the_first_token_was_killed() -> None:
    run = recording("C_kill9_worker")
    assert diagnose(run.lines, 0, was_ready=False).cause is Cause.KILLED


def test_an_error_that_a_request_met_earlier_does_not_explain_a_death() -> None:
    earlier = ["torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."]
    run = recording("C_kill9_engine")
    assert diagnose(earlier + run.lines, 0, was_ready=True).cause is Cause.KILLED
    assert diagnose([SERVED, *earlier], -9, was_ready=True).cause is Cause.KILLED


@pytest.mark.parametrize(
    ("exit_code", "was_ready", "cause", "sentence"),
    [
        (0, True, Cause.CRASHED, "ended by itself with exit code 0."),
        (1, False, Cause.UNKNOWN, "could not start (exit code 1)."),
        (-9, True, Cause.KILLED, "killed (signal 9)"),
        (137, False, Cause.KILLED, "killed (signal 9)"),
        (-15, True, Cause.KILLED, "SIGTERM"),
        (-2, False, Cause.KILLED, "SIGINT"),
        (-11, True, Cause.CRASHED, "SIGSEGV"),
        (-6, False, Cause.CRASHED, "SIGABRT"),
        (-63, True, Cause.CRASHED, "signal 63"),
        (None, True, Cause.WEDGED, "does not answer"),
        (None, False, Cause.START_TIMEOUT, "did not start in time."),
    ],
)
def test_without_a_word_the_exit_code_speaks(
    exit_code: int | None, was_ready: bool, cause: Cause, sentence: str
) -> None:
    failure = diagnose([], exit_code, was_ready=was_ready)
    assert failure.cause is cause
    assert sentence in failure.message
    assert not failure.permanent


def test_a_bus_error_asks_for_shared_memory() -> None:
    assert "--shm-size" in diagnose([], -7, was_ready=True).remedy


def test_the_hub_that_makes_the_engine_wait_counts_only_as_its_newest_line() -> None:
    waiting = "Rate limited. Waiting 121.0s before retry [Retry 1/5]."
    assert diagnose([waiting], None, was_ready=False).cause is Cause.HUB_RATE_LIMITED
    later = [waiting, "(Worker pid=1) ERROR 11-20 10:54:40 [x.py:1] a", "b", "c", "ValueError: d"]
    assert diagnose(later, 1, was_ready=False).cause is Cause.UNKNOWN


@pytest.mark.parametrize(
    "line",
    [
        'INFO:     1.2.3.4:5 - "GET /torch.OutOfMemoryError: CUDA out of memory. HTTP/1.1" 404',
        "(APIServer pid=1) WARNING 11-20 10:47:18 [system_utils.py:255] Found ulimit of 20000: "
        "`OSError: [Errno 24] Too many open files`",
        "a prompt that speaks of OSError: [Errno 98] Address already in use",
        "    raise ValueError('No available memory for the cache blocks')",
    ],
)
def test_the_words_of_a_cause_in_the_wrong_place_mean_nothing(line: str) -> None:
    assert diagnose([line], 1, was_ready=False).cause is Cause.UNKNOWN
