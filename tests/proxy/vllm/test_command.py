"""Settings -> the arguments and the environment of `vllm serve`."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from proxy.engine.server import Command
from proxy.errors import SettingsError
from proxy.relay.connection import MAX_IDLE_SECONDS
from proxy.settings import Settings
from proxy.settings.preset import Preset
from proxy.vllm.command import engine_command, masked, warnings_about

SECRETS = {
    "HF_TOKEN": "secret-hf",
    "API_KEYS": "label:secret-key",
    "ADMIN_KEYS": "label:secret-admin",
    "API_KEY": "secret-engine-key",
    "VLLM_API_KEY": "secret-vllm-key",
    "RUNPOD_API_KEY": "secret-runpod",
    "JUPYTER_PASSWORD": "secret-jupyter",
    "AWS_SECRET_ACCESS_KEY": "secret-aws",
    "SSL_KEYFILE": "/secret-keyfile",
}


def command(
    environ: dict[str, str] | None = None, *, has_gpu: bool = False, demo: bool = False
) -> Command:
    return engine_command(
        Settings.load(environ or {}),
        model_path="/models/m",
        served_names=("m", "alias"),
        has_gpu=has_gpu,
        demo=demo,
    )


def warnings(environ: dict[str, str]) -> tuple[str, ...]:
    return warnings_about(Settings.load(environ))


def values(argv: tuple[str, ...], flag: str) -> list[str]:
    """What stands behind each occurrence of a flag."""
    return [value for name, value in pairwise(argv) if name == flag]


def test_the_engine_is_found_only_by_the_sidecar() -> None:
    argv = command({"UPSTREAM_PORT": "9001", "HOST": "0.0.0.0", "PORT": "80"}).argv
    assert argv[:3] == ("vllm", "serve", "/models/m")
    assert values(argv, "--host") == ["127.0.0.1"]
    assert values(argv, "--port") == ["9001"]


@pytest.mark.parametrize("has_gpu", [True, False])
def test_an_engine_that_may_sleep_listens_on_a_socket_and_has_the_routes_for_it(
    has_gpu: bool,
) -> None:
    preset = Preset("m", "file", {"MODEL_NAME": "a/m"}, sleeps=True)
    made = engine_command(
        Settings.load({"MODEL_NAME": "m"}, preset),
        model_path="/models/m",
        served_names=("m",),
        has_gpu=has_gpu,
        uds=Path("/run/engine.sock"),
    )
    assert values(made.argv, "--uds") == ["/run/engine.sock"]
    assert not {"--host", "--port"} & set(made.argv)
    # The CPU build refuses the flag, and does all but give memory back without it.
    assert ("--enable-sleep-mode" in made.argv) is has_gpu
    assert "--no-log-error-stack" in made.argv
    assert made.environ["VLLM_SERVER_DEV_MODE"] == "1"
    assert "PYTORCH_ALLOC_CONF" not in made.environ
    assert "VLLM_SERVER_DEV_MODE" not in command().environ


def test_all_served_names_are_passed_on() -> None:
    argv = command().argv
    start = argv.index("--served-model-name")
    assert argv[start + 1 : start + 3] == ("m", "alias")
    assert argv[start + 3].startswith("--")


WORDS: list[tuple[dict[str, str], list[str]]] = [
    ({"MAX_MODEL_LEN": "8192"}, ["--max-model-len", "8192"]),
    ({"GPU_MEMORY_UTIL": "0.5"}, ["--gpu-memory-utilization", "0.5"]),
    ({"TENSOR_PARALLEL_SIZE": "2"}, ["--tensor-parallel-size", "2"]),
    ({"TENSOR_PARALLEL_SIZE": "2"}, ["--mm-encoder-tp-mode", "data"]),
    ({"MAX_BATCHED_TOKENS": "4096"}, ["--max-num-batched-tokens", "4096"]),
    ({"MAX_NUM_SEQS": "64"}, ["--max-num-seqs", "64"]),
    ({"DTYPE": "float16"}, ["--dtype", "float16"]),
    ({"QUANTIZATION": "awq"}, ["--quantization", "awq"]),
    ({"KV_CACHE_DTYPE": "fp8"}, ["--kv-cache-dtype", "fp8"]),
    ({"TOOL_CALL_PARSER": "hermes"}, ["--tool-call-parser", "hermes"]),
    ({"REASONING_PARSER": "qwen3"}, ["--reasoning-parser", "qwen3"]),
    ({"CHAT_TEMPLATE": "{{ a b }}"}, ["--chat-template", "{{ a b }}"]),
    ({"CUSTOM_CHAT_TEMPLATE": "/t"}, ["--chat-template", "/t"]),
    ({"TRUST_REMOTE_CODE": "yes"}, ["--trust-remote-code"]),
    ({"ENABLE_AUTO_TOOL_CHOICE": "1"}, ["--enable-auto-tool-choice"]),
    ({"SSE_KEEP_ALIVE_SECONDS": "15"}, ["--sse-keep-alive-interval", "15"]),
    ({"SSE_KEEP_ALIVE_SECONDS": "0.2"}, ["--sse-keep-alive-interval", "1"]),
    (
        {"SSE_KEEP_ALIVE_SECONDS": "15", "SSE_KEEP_ALIVE_INTERVAL": "7"},
        ["--sse-keep-alive-interval", "7"],
    ),
    # Not documented one by one: named like a flag.
    ({"SEED": "7"}, ["--seed", "7"]),
    ({"TOKENIZER_NAME": "a/b"}, ["--tokenizer", "a/b"]),
    ({"ENFORCE_EAGER": "off"}, ["--no-enforce-eager"]),
    ({"VLLM_EXTRA_ARGS": "--seed 1 --x 'a b'"}, ["--seed", "1", "--x", "a b"]),
]


@pytest.mark.parametrize(("environ", "words"), WORDS)
def test_a_variable_becomes_words_of_the_command(environ: dict[str, str], words: list[str]) -> None:
    argv = list(command(environ).argv)
    runs = [argv[i : i + len(words)] for i in range(len(argv))]
    assert runs.count(words) == 1
    assert words[0] not in command().argv


@pytest.mark.parametrize(
    ("environ", "flag"),
    [
        ({"TRUST_REMOTE_CODE": "no"}, "trust-remote-code"),
        ({"MAX_BATCHED_TOKENS": "0"}, "max-num-batched-tokens"),
        ({"TENSOR_PARALLEL_SIZE": "1"}, "tensor-parallel-size"),
        ({"SSE_KEEP_ALIVE_SECONDS": "0"}, "sse-keep-alive-interval"),
        ({"TENSOR_PARALLEL_SIZE": "1"}, "mm-encoder-tp-mode"),
        ({"DISABLE_LOG_STATS": "false"}, "disable-log-stats"),
        ({"seed": "1"}, "seed"),
        ({"SEED": ""}, "seed"),
        ({"MODEL": "x", "CONFIG": "/c", "API_KEY": "k", "UDS": "/s"}, "config"),
        ({"API_KEY": "k"}, "api-key"),
        ({"SSL_KEYFILE": "/k"}, "ssl-keyfile"),
        ({"UDS": "/s"}, "uds"),
        ({"ROOT_PATH": "/x"}, "root-path"),
    ],
)
def test_a_variable_that_asks_for_nothing_or_is_not_allowed_adds_no_flag(
    environ: dict[str, str], flag: str
) -> None:
    argv = command(environ).argv
    assert not [word for word in argv if word.startswith((f"--{flag}", f"--no-{flag}"))]


def test_the_engine_fetches_no_media_that_the_sidecar_fetches() -> None:
    for environ in ({}, {"ALLOWED_MEDIA_DOMAINS": "a.org", "MEDIA_FETCH": "proxy"}):
        argv = command(environ).argv
        assert values(argv, "--allowed-media-domains") == ["fetched-by-the-sidecar.invalid"]


def test_an_engine_that_fetches_does_so_from_the_allowed_domains_without_redirects() -> None:
    listed = command({"ALLOWED_MEDIA_DOMAINS": "a.org, B.org"})
    at = listed.argv.index("--allowed-media-domains")
    assert listed.argv[at + 1 : at + 3] == ("a.org", "b.org")
    assert listed.argv[at + 3].startswith("--")
    assert listed.environ["VLLM_MEDIA_URL_ALLOW_REDIRECTS"] == "0"
    assert "--allowed-media-domains" not in command({"MEDIA_FETCH": "engine"}).argv


def test_limits_per_modality_are_one_flag() -> None:
    argv = command({"IMAGE_LIMIT": "2", "AUDIO_LIMIT": "0"}).argv
    (limits,) = values(argv, "--limit-mm-per-prompt")
    assert json.loads(limits) == {"image": 2, "video": 1, "audio": 0}


def test_gpu_defaults_stand_only_where_a_gpu_is() -> None:
    on_gpu, on_cpu = command(has_gpu=True), command()
    assert values(on_gpu.argv, "--gpu-memory-utilization") == ["0.95"]
    assert "--enable-chunked-prefill" in on_gpu.argv
    assert on_gpu.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert "--gpu-memory-utilization" not in on_cpu.argv
    assert "--enable-chunked-prefill" not in on_cpu.argv
    assert "PYTORCH_ALLOC_CONF" not in on_cpu.environ


@pytest.mark.parametrize(
    ("environ", "default", "instead"),
    [
        ({"GPU_MEMORY_UTIL": "0.5"}, "0.95", "--gpu-memory-utilization"),
        (
            {"ENABLE_CHUNKED_PREFILL": "false"},
            "--enable-chunked-prefill",
            "--no-enable-chunked-prefill",
        ),
        ({"DISABLE_UVICORN_ACCESS_LOG": "false"}, "--disable-uvicorn-access-log", "vllm"),
    ],
)
def test_a_default_gives_way_to_the_variable_of_the_flag(
    environ: dict[str, str], default: str, instead: str
) -> None:
    assert default in command(has_gpu=True).argv
    argv = command(environ, has_gpu=True).argv
    assert default not in argv
    assert instead in argv


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, "expandable_segments:True"),
        ({"PYTORCH_ALLOC_CONF": "max_split_size_mb:512"}, "max_split_size_mb:512"),
        ({"PYTORCH_CUDA_ALLOC_CONF": "backend:native"}, None),
        # The allocator of vLLM's sleep mode refuses it.
        ({"ENABLE_SLEEP_MODE": "true"}, None),
        ({"VLLM_EXTRA_ARGS": "--enable-sleep-mode"}, None),
        ({"ENABLE_SLEEP_MODE": "false"}, "expandable_segments:True"),
    ],
)
def test_segments_are_expandable_unless_something_else_was_asked_for(
    environ: dict[str, str], expected: str | None
) -> None:
    assert command(environ, has_gpu=True).environ.get("PYTORCH_ALLOC_CONF") == expected


def test_the_demo_starts_fast_and_small_on_a_cpu() -> None:
    demo = command(demo=True)
    assert "--enforce-eager" in demo.argv
    assert values(demo.argv, "--dtype") == ["bfloat16"]
    assert demo.environ["VLLM_CPU_KVCACHE_SPACE"] == "1"
    given = {"ENFORCE_EAGER": "false", "DTYPE": "float32", "VLLM_CPU_KVCACHE_SPACE": "4"}
    own = command(given, demo=True)
    assert "--enforce-eager" not in own.argv
    assert values(own.argv, "--dtype") == ["float32"]
    assert own.environ["VLLM_CPU_KVCACHE_SPACE"] == "4"
    assert "VLLM_CPU_KVCACHE_SPACE" not in command().environ


def test_extra_arguments_come_last_so_that_they_win() -> None:
    environ = {"VLLM_EXTRA_ARGS": "--max-model-len 4096", "MAX_MODEL_LEN": "1", "SEED": "1"}
    argv = command(environ, has_gpu=True, demo=True).argv
    assert argv[-2:] == ("--max-model-len", "4096")


@pytest.mark.parametrize(
    "words",
    [
        *("--port 9", "--port=9", "--host 0.0.0.0", "--uds /s", "--api-key k", "--api_key=k"),
        *("--hf-token hf_x", "--hf_token=hf_x", "--ssl-keyfile /k", "--served-model-name x"),
        *("--model x", "--config /c", "--revision x", "--root-path /x", "--headless"),
        *("--seed 1 --port 9", "--PORT 9"),
    ],
)
def test_extra_arguments_may_not_set_what_is_the_sidecars_to_set(words: str) -> None:
    with pytest.raises(SettingsError, match=r"VLLM_EXTRA_ARGS: --.* is not allowed; ") as error:
        command({"VLLM_EXTRA_ARGS": words})
    assert "hf_x" not in str(error.value)


def test_extra_arguments_that_are_no_shell_words_are_refused() -> None:
    with pytest.raises(SettingsError, match="VLLM_EXTRA_ARGS: No closing quotation; allowed are"):
        command({"VLLM_EXTRA_ARGS": "--x 'a"})


@pytest.mark.parametrize(
    ("environ", "allowed"),
    [
        ({"ENFORCE_EAGER": "maybe"}, "true, 1, yes, on and false, 0, no, off"),
        ({"ALL2ALL_BACKEND": "fancy"}, "allgather_reducescatter, "),
    ],
)
def test_a_flags_variable_with_a_bad_value_is_refused_by_name(
    environ: dict[str, str], allowed: str
) -> None:
    ((name, value),) = environ.items()
    with pytest.raises(SettingsError) as error:
        command(environ)
    assert str(error.value).startswith(f"{name}={value!r}: allowed are ")
    assert allowed in str(error.value)


def test_no_secret_is_in_the_arguments_or_in_a_warning() -> None:
    made, warned = command(SECRETS, has_gpu=True), warnings(SECRETS)
    shown = " ".join((*made.argv, *warned))
    assert "secret-" not in shown
    for name in ("API_KEY", "VLLM_API_KEY"):  # who sets one believes that it is asked for
        assert f"{name} has no effect here: use API_KEYS" in warned
    assert "SSL_KEYFILE has no effect here: TLS is left to what stands in front" in warned


GATEWAYS = {
    "LITELLM_MASTER_KEY": "sk-1",
    "LITELLM_SALT_KEY": "sk-2",
    "UI_PASSWORD": "p",
    "POSTGRES_PASSWORD": "p",
}


@pytest.mark.parametrize("name", GATEWAYS)
def test_a_variable_of_the_gateway_is_met_with_what_does_it(name: str) -> None:
    (warning,) = warnings_about(Settings.load({name: "secret"}))
    assert warning.startswith(f"{name} has no effect here: ")
    assert "docs/gateway.md" in warning
    assert "secret" not in warning


def test_the_engine_does_not_get_what_is_not_its_own() -> None:
    given = {
        **SECRETS,
        "API_KEYS_FILE": "/k",
        "PUBLIC_KEY": "ssh",
        "VLLM_PORT": "tcp://10.0.0.1:80",
        "VLLM_EXTRA_ARGS": "--seed 1",
        "VLLM_MODEL_NAME": "x",
        **GATEWAYS,
        "PORT": "8000",
        "HOST": "::",
        "UPSTREAM_PORT": "8001",
        "PORT_HEALTH": "8002",
        "METRICS_PORT": "8003",
        "LOG_FILE": "/tmp/sidecar.log",
        "VLLM_STARTUP_TIMEOUT": "5",
        "HF_HOME": "/hf",
        "CUDA_VISIBLE_DEVICES": "1",
        "VLLM_LOGGING_LEVEL": "DEBUG",
        "PATH": "/bin",
        "VLLM_CONFIG_FILE": "/c",
    }
    left = command(given).environ
    dropped = {
        "ADMIN_KEYS",
        *("API_KEYS", "VLLM_API_KEY", "RUNPOD_API_KEY", "JUPYTER_PASSWORD", "API_KEYS_FILE"),
        *("PUBLIC_KEY", "VLLM_PORT", "VLLM_EXTRA_ARGS", "VLLM_MODEL_NAME", "PORT", "HOST"),
        *("UPSTREAM_PORT", "PORT_HEALTH", "VLLM_STARTUP_TIMEOUT", "VLLM_CONFIG_FILE"),
        *("METRICS_PORT", "LOG_FILE"),
        *GATEWAYS,
    }
    assert set(given) - set(left) == dropped
    assert all(left[name] == given[name] for name in set(given) - dropped)


def test_what_the_engine_gets_by_default_gives_way_to_the_environment() -> None:
    defaults = {
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": "75",
        # Its own default of 600 s ends a start that is only slow.
        "VLLM_ENGINE_READY_TIMEOUT_S": "7200",
        "VLLM_NO_USAGE_STATS": "1",
        "PYTHONFAULTHANDLER": "1",
        "VLLM_LOGGING_COLOR": "0",
        "VLLM_MEDIA_URL_ALLOW_REDIRECTS": "0",
    }
    assert dict(command().environ) == defaults
    own = dict.fromkeys(defaults, "5")
    assert dict(command(own).environ) == own


def test_the_engines_idle_connections_outlive_the_sidecars_use_of_them() -> None:
    assert float(command().environ["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"]) > 2 * MAX_IDLE_SECONDS


@pytest.mark.parametrize("name", ["MAX_CONCURRENCY", "VLLM_CONFIG_FILE"])
def test_a_name_of_another_image_gets_one_warning_and_has_no_effect(name: str) -> None:
    made = command({name: "some-value"})
    (warning,) = warnings({name: "some-value"})
    assert warning.startswith(f"{name} has no effect here: ")
    assert made.argv == command().argv
    assert "some-value" not in warning


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"MM_PROCESSOR_KWARGS": "image=1"}, "MM_PROCESSOR_KWARGS='image=1' is no JSON ("),
        ({"SPECULATIVE_CONFIG": "{'method': 'ngram'}"}, "SPECULATIVE_CONFIG=\"{'method'"),
        ({"HF_OVERRIDES": "my_module.override"}, "HF_OVERRIDES='my_module.override' is no JSON"),
        ({"OVERRIDE_GENERATION_CONFIG": "[1]"}, "='[1]' is no JSON object; allowed is a JSON obj"),
        ({"VLLM_EXTRA_ARGS": "-cc [1]"}, "VLLM_EXTRA_ARGS: -cc='[1]' is no JSON object"),
        ({"VLLM_EXTRA_ARGS": "--hf_overr=1"}, "VLLM_EXTRA_ARGS: --hf_overr='1' is no JSON object"),
        ({"VLLM_EXTRA_ARGS": "--seed x"}, "--seed='x': allowed is a whole number (vLLM's --seed)"),
        ({"VLLM_EXTRA_ARGS": "--dtype f"}, "VLLM_EXTRA_ARGS: --dtype='f': allowed are auto, "),
        (
            {"VLLM_EXTRA_ARGS": "--enforce-eager false --seed 1"},
            "takes no value, and 'false' is one; leave the value out or write --no-enforce-eager",
        ),
        (
            {"VLLM_EXTRA_ARGS": "--no-enforce-eager=1"},
            "takes no value, and '1' is one; leave the value",
        ),
        (
            {"VLLM_EXTRA_ARGS": "--cudagraph-capture-sizes 1 x"},
            "--cudagraph-capture-sizes='x': allowed is a whole number",
        ),
        ({"VLLM_EXTRA_ARGS": "--lora-modules a=/a b"}, "--lora-modules='b': allowed is name=path"),
        ({"VLLM_EXTRA_ARGS": "--limit-mm-per-prompt image=1"}, "S: --limit-mm-per-prompt="),
        ({"VLLM_EXTRA_ARGS": "--limit-mm-per-prompt=image=1"}, "S: --limit-mm-per-prompt="),
    ],
)
def test_a_value_that_vllm_cannot_take_is_refused_before_the_start(
    environ: dict[str, str], says: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        command(environ)
    assert says in str(refused.value)


@pytest.mark.parametrize(
    "environ",
    [
        {"MM_PROCESSOR_KWARGS": '{"max_pixels": 1}'},
        {"MM_PROCESSOR_KWARGS": '"{\\"max_pixels\\": 1}"'},
        {"ALLOWED_ORIGINS": '["*"]'},
        {"PT_LOAD_MAP_LOCATION": "cuda:0"},
        {"PT_LOAD_MAP_LOCATION": '{"cuda:1": "cuda:0"}'},
        {"KV_TRANSFER_CONFIG": '{"kv_connector_extra_config": {"cpu_bytes_to_use": 80m}}'},
        {"SPECULATIVE_CONFIG": "None"},
        {"VLLM_EXTRA_ARGS": "--max-model-len auto -tp 2 --seed -1 -O3"},
        {"VLLM_EXTRA_ARGS": "--max-num-batched-tokens 8k --lora-modules a=/a"},
        {"VLLM_EXTRA_ARGS": "--limit-mm-per-prompt '{\"image\": 1}' --enforce-eager"},
        {"VLLM_EXTRA_ARGS": "--limit-mm-per-prompt.image 1"},
    ],
)
def test_a_value_that_vllm_takes_goes_to_the_engine(environ: dict[str, str]) -> None:
    assert command(environ).argv


@pytest.mark.parametrize(
    ("environ", "is_warned"),
    [
        ({"DISABLE_LOG_STATS": "true"}, True),
        ({"VLLM_EXTRA_ARGS": "--disable-log-stats"}, True),
        ({"DISABLE_LOG_STATS": "false"}, False),
        ({"VLLM_LOG_STATS_INTERVAL": "3600"}, False),
    ],
)
def test_an_engine_that_is_to_keep_no_counters_is_warned_about(
    environ: dict[str, str], is_warned: bool
) -> None:
    made = warnings(environ)
    assert len(made) == is_warned
    assert all("VLLM_LOG_STATS_INTERVAL=3600" in warning for warning in made)


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("MAX_MODEL_LENGTH", "MAX_MODEL_LEN"),
        ("MAX_NUM_SEQ", "MAX_NUM_SEQS"),
        ("DRAIN_SECOND", "DRAIN_SECONDS"),
    ],
)
def test_a_typo_is_met_with_the_nearest_known_name(typo: str, meant: str) -> None:
    (warning,) = warnings({typo: "1"})
    assert warning == f"{typo} is not known. Did you mean {meant}?"


def test_the_rest_of_an_ordinary_environment_is_not_warned_about() -> None:
    ordinary = """
        PATH HOME HOSTNAME PWD TERM LC_ALL LD_LIBRARY_PATH PYTHONUNBUFFERED SSH_AUTH_SOCK SEED
        CUDA_VISIBLE_DEVICES NVIDIA_VISIBLE_DEVICES RUNPOD_POD_ID KUBERNETES_SERVICE_HOST
        VLLM_LOGGING_LEVEL VLLM_CACHE_ROOT HF_HUB_ENABLE_HF_TRANSFER TOKENIZER_NAME
    """
    assert warnings(dict.fromkeys(ordinary.split(), "1")) == ()


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["--api-key", "a", "b", "--port", "1"], ["--api-key", "***", "***", "--port", "1"]),
        (["--api-key=a"], ["--api-key=***"]),
        (["--hf-token", "x"], ["--hf-token", "***"]),
        (["--hf_token=x", "y"], ["--hf_token=***", "y"]),
        (["--my-secret", "x"], ["--my-secret", "***"]),
        (["--hf-tok", "x", "--hf_t=x"], ["--hf-tok", "***", "--hf_t=***"]),
        (["--api-k", "a", "b", "--x.token", "a"], ["--api-k", "***", "***", "--x.token", "***"]),
        (["--long-prefill-token-threshold", "4"], ["--long-prefill-token-threshold", "4"]),
        (["--db-password", "x"], ["--db-password", "***"]),
        (["--tokenizer-mode=auto"], ["--tokenizer-mode=auto"]),
        (["vllm", "serve", "key"], ["vllm", "serve", "key"]),
        (["--x=http://me:pw@c/a@b", "s3://k:s@b"], ["--x=http://***@c/a@b", "s3://***@b"]),
        (['{"url": "https://me@c"}', "http://c/@a"], ['{"url": "https://***@c"}', "http://c/@a"]),
        (
            ['--x={"a": {"S3_Access_Key": "a\\"b", "token":"c"}, "n_tokens": "1", "m": "d"}'],
            ['--x={"a": {"S3_Access_Key": "***", "token":"***"}, "n_tokens": "1", "m": "d"}'],
        ),
    ],
)
def test_what_is_shown_of_the_arguments_hides_secrets(argv: list[str], shown: list[str]) -> None:
    assert masked(argv) == shown


def test_what_is_shown_of_the_arguments_is_else_all_of_them() -> None:
    argv = command({"MAX_BATCHED_TOKENS": "1", "TOKENIZER_MODE": "auto"}, has_gpu=True).argv
    assert masked(argv) == list(argv)


@pytest.mark.parametrize("word", ["--api-k", "--por", "--hos=0.0.0.0", "--ud", "--served-model-n"])
def test_a_reserved_flag_is_refused_in_short_too(word: str) -> None:
    with pytest.raises(SettingsError, match="is not allowed; "):
        command({"VLLM_EXTRA_ARGS": f"{word} x"})


def test_a_revision_is_named_only_where_the_engine_fetches_the_model_itself() -> None:
    settings = Settings.load({"MODEL_REVISION": "v2"})
    where = {"model_path": "s3://b/m", "served_names": ("m",), "has_gpu": False}
    assert "--revision" not in engine_command(settings, **where).argv  # type: ignore[arg-type]
    argv = engine_command(settings, **where, revision="v2").argv  # type: ignore[arg-type]
    assert values(argv, "--revision") == ["v2"]


# Traces -----------------------------------------------------------------------------------------

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"


def test_the_engine_sends_its_spans_where_the_sidecar_sends_its_own() -> None:
    made = command({ENDPOINT: "http://c:4318"})
    assert values(made.argv, "--otlp-traces-endpoint") == ["http://c:4318/v1/traces"]
    assert made.environ[PROTOCOL] == "http/protobuf"
    assert made.environ["OTEL_SERVICE_NAME"] == "vllm"
    by_grpc = command({ENDPOINT: "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert values(by_grpc.argv, "--otlp-traces-endpoint") == ["http://c:4317"]
    assert by_grpc.environ[PROTOCOL] == "grpc"


def test_without_traces_the_engine_makes_none() -> None:
    made = command({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"})
    assert "--otlp-traces-endpoint" not in made.argv
    assert not made.environ.keys() & {PROTOCOL, "OTEL_SERVICE_NAME"}


def test_the_engines_spans_may_go_elsewhere_or_nowhere() -> None:
    elsewhere = command({ENDPOINT: "http://c", "OTLP_TRACES_ENDPOINT": "http://d:4317"})
    assert values(elsewhere.argv, "--otlp-traces-endpoint") == ["http://d:4317"]
    assert PROTOCOL not in elsewhere.environ
    alone = command({"OTLP_TRACES_ENDPOINT": "http://d:4317"})
    assert values(alone.argv, "--otlp-traces-endpoint") == ["http://d:4317"]
    of_traces = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
    nowhere = command({of_traces: "http://c", "OTLP_TRACES_ENDPOINT": "none"})
    assert "--otlp-traces-endpoint" not in nowhere.argv
    assert of_traces not in nowhere.environ
    extra = command({ENDPOINT: "http://c", "VLLM_EXTRA_ARGS": "--otlp-traces-endpoint http://e"})
    assert values(extra.argv, "--otlp-traces-endpoint")[-1] == "http://e"


@pytest.mark.parametrize(
    "environ",
    [{"OTEL_SERVICE_NAME": "mine"}, {"OTEL_RESOURCE_ATTRIBUTES": "a=b,service.name=mine"}],
)
def test_the_engine_keeps_a_name_that_it_was_given(environ: dict[str, str]) -> None:
    made = command({ENDPOINT: "http://c", **environ})
    assert made.environ.get("OTEL_SERVICE_NAME", "mine") == "mine"


def test_a_flag_that_is_none_is_warned_about_in_extra_arguments() -> None:
    """Not more: the image may have another vLLM."""
    text = "--max-model-length 5 --xyz=1 --no-enforce-eager --seed 1 --limit-mm-per-prompt.image 1"
    text += " --no-seed"
    assert warnings({"VLLM_EXTRA_ARGS": text + " --tensor_par 2 -O3 -1 --"}) == (
        "VLLM_EXTRA_ARGS: --max-model-length is no flag of the vLLM that this is for."
        " Did you mean --max-model-len?",
        "VLLM_EXTRA_ARGS: --xyz is no flag of the vLLM that this is for.",
        "VLLM_EXTRA_ARGS: --no-seed is no flag of the vLLM that this is for. Did you mean --seed?",
    )
