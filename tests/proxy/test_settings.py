"""Every environment variable: what it takes, what it refuses, and how it says so."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from proxy.errors import SettingsError
from proxy.settings import LogFormat, MediaFetch, OnEngineFailure, Settings, variables
from proxy.settings.allowance import Allowance, KeyLimits
from proxy.settings.tracing import OtlpProtocol

TRUE_WORDS = ("true", "1", "yes", "on", "True", "YES")
FALSE_WORDS = ("false", "0", "no", "off", "False", "NO")
BOOLEANS = (
    *("HF_HUB_OFFLINE", "TRUST_REMOTE_CODE", "ENABLE_AUTO_TOOL_CHOICE", "WARMUP"),
    *("POISON_GUARD", "ALLOW_PRIVATE_MEDIA"),
)  # fmt: skip
FREE_TEXT = frozenset(
    {
        *("MODEL_NAME", "MODEL_ID", "VLLM_MODEL_NAME", "MODEL_REVISION", "SERVED_MODEL_NAME"),
        *("OPENAI_SERVED_MODEL_NAME_OVERRIDE", "HF_TOKEN", "HF_ENDPOINT", "DTYPE"),
        *("QUANTIZATION", "KV_CACHE_DTYPE", "TOOL_CALL_PARSER", "REASONING_PARSER"),
        *("CHAT_TEMPLATE", "CUSTOM_CHAT_TEMPLATE", "VLLM_EXTRA_ARGS"),
        *("SM_VLLM_MODEL", "HF_MODEL_ID", "SM_VLLM_REVISION", "HUGGING_FACE_HUB_TOKEN"),
        "OTLP_TRACES_ENDPOINT",  # as any other flag of vLLM's
        *("MODELS_FILE", "API_KEYS_FILE"),  # as with the next, what
        "LOG_FILE",  # what is wrong with it is known when it is opened
    }
)
# Their own tests are below, and in test_trace_target.py.
SECRETS = frozenset({"API_KEYS", "OTEL_EXPORTER_OTLP_ENDPOINT"})
GOOD: list[tuple[str, str, str, Any]] = [
    ("MODEL_NAME", "Qwen/Qwen2-VL-7B-Instruct", "model_name", "Qwen/Qwen2-VL-7B-Instruct"),
    ("MODEL_ID", "a/b", "model_name", "a/b"),
    ("VLLM_MODEL_NAME", "a/b", "model_name", "a/b"),
    ("SM_VLLM_MODEL", "a/b", "model_name", "a/b"),
    ("HF_MODEL_ID", "a/b", "model_name", "a/b"),
    ("SM_VLLM_REVISION", "v1", "model_revision", "v1"),
    ("HUGGING_FACE_HUB_TOKEN", "hf_secret", "hf_token", "hf_secret"),
    ("MODELS_FILE", "/workspace/models.toml", "models_file", "/workspace/models.toml"),
    ("MODEL_REVISION", "main", "model_revision", "main"),
    ("SERVED_MODEL_NAME", "a", "served_model_names", ("a",)),
    ("SERVED_MODEL_NAME", " a , b,, ", "served_model_names", ("a", "b")),
    ("OPENAI_SERVED_MODEL_NAME_OVERRIDE", "a,b", "served_model_names", ("a", "b")),
    ("HF_TOKEN", "hf_secret", "hf_token", "hf_secret"),
    ("HF_HOME", "/workspace/hf", "hf_home", "/workspace/hf"),
    ("HF_ENDPOINT", "https://mirror", "hf_endpoint", "https://mirror"),
    ("MODEL_NAME", " a/b\n", "model_name", "a/b"),
    ("HF_TOKEN", "hf_secret\n", "hf_token", "hf_secret"),
    ("WARMUP", "false ", "warmup", False),
    ("LOG_FORMAT", "text\n", "log_format", LogFormat.TEXT),
    ("MAX_MODEL_LEN", "8192", "max_model_len", "8192"),
    ("MAX_MODEL_LEN", "8192 ", "max_model_len", "8192"),
    ("MAX_MODEL_LEN", "auto", "max_model_len", "auto"),
    ("MAX_MODEL_LEN", "-1", "max_model_len", "-1"),
    ("MAX_MODEL_LEN", "1.5k", "max_model_len", "1.5k"),
    ("GPU_MEMORY_UTIL", "0.5", "gpu_memory_utilization", 0.5),
    ("GPU_MEMORY_UTIL", "1", "gpu_memory_utilization", 1.0),
    ("GPU_MEMORY_UTILIZATION", "0.9", "gpu_memory_utilization", 0.9),
    ("TENSOR_PARALLEL_SIZE", "2", "tensor_parallel_size", 2),
    ("MAX_NUM_SEQS", "64", "max_num_seqs", 64),
    ("MAX_BATCHED_TOKENS", "4096", "max_num_batched_tokens", 4096),
    ("MAX_BATCHED_TOKENS", "0", "max_num_batched_tokens", 0),
    ("MAX_NUM_BATCHED_TOKENS", "1", "max_num_batched_tokens", 1),
    ("IMAGE_LIMIT", "0", "image_limit", 0),
    ("VIDEO_LIMIT", "3", "video_limit", 3),
    ("AUDIO_LIMIT", "2", "audio_limit", 2),
    ("DTYPE", "bfloat16", "dtype", "bfloat16"),
    ("QUANTIZATION", "awq", "quantization", "awq"),
    ("KV_CACHE_DTYPE", "fp8", "kv_cache_dtype", "fp8"),
    ("TOOL_CALL_PARSER", "hermes", "tool_call_parser", "hermes"),
    ("REASONING_PARSER", "qwen3", "reasoning_parser", "qwen3"),
    ("CHAT_TEMPLATE", "{{ messages }}\n", "chat_template", "{{ messages }}\n"),
    ("CUSTOM_CHAT_TEMPLATE", "/t.jinja", "chat_template", "/t.jinja"),
    ("VLLM_EXTRA_ARGS", "--seed 1", "extra_args", "--seed 1"),
    ("HOST", "::", "host", "::"),
    ("PORT", "1", "port", 1),
    ("PORT", "65535", "port", 65535),
    ("PORT_HEALTH", "8080", "port_health", 8080),
    ("HEALTH_CHECK_PATH", "/healthz", "health_check_path", "/healthz"),
    ("UPSTREAM_PORT", "9000", "upstream_port", 9000),
    ("UPSTREAM_URL", "http://engine:8000", "upstream_url", "http://engine:8000"),
    ("UPSTREAM_URL", "http://engine/", "upstream_url", "http://engine/"),
    ("UPSTREAM_URL", "http://[::1]:8000", "upstream_url", "http://[::1]:8000"),
    ("API_KEYS_FILE", "/run/secrets/keys", "api_keys_file", "/run/secrets/keys"),
    ("KEY_LIMITS", "all: rpm=600", "key_limits", KeyLimits(all=Allowance(rpm=600))),
    ("MAX_BODY_MB", "0.5", "max_body_mb", 0.5),
    ("CORS_ORIGINS", "*", "cors_origins", ("*",)),
    ("ALLOWED_HOSTS", "*", "allowed_hosts", ("*",)),
    ("ALLOWED_HOSTS", "a.b, *.c", "allowed_hosts", ("a.b", "*.c")),
    (
        "CORS_ORIGINS",
        "https://a.b, http://c:3000",
        "cors_origins",
        ("https://a.b", "http://c:3000"),
    ),
    ("BODY_TIMEOUT", "0.5", "body_timeout", 0.5),
    ("MAX_IN_FLIGHT", "64", "max_in_flight", 64),
    ("MAX_WAITING", "0", "max_waiting", 0),
    ("WAITING_TIMEOUT", "2.5", "waiting_timeout", 2.5),
    ("HOLD_SECONDS", "30", "hold_seconds", 30.0),
    ("STREAM_IDLE_TIMEOUT", "2.5", "stream_idle_timeout", 2.5),
    ("REQUEST_TIMEOUT", "600", "request_timeout", 600.0),
    ("EXTRA_ROUTES", "/load, /pause", "extra_routes", ("/load", "/pause")),
    ("SSE_KEEP_ALIVE_SECONDS", "15", "sse_keep_alive_seconds", 15),
    ("JSON_HEARTBEAT_SECONDS", "2.5", "json_heartbeat_seconds", 2.5),
    ("PROTOCOLS", "a.b:C, d:E", "protocols", ("a.b:C", "d:E")),
    ("PROTOCOL_MODULES", "a.b, c", "protocol_modules", ("a.b", "c")),
    ("ALLOWED_MEDIA_DOMAINS", "a.org, b.org", "allowed_media_domains", ("a.org", "b.org")),
    ("MEDIA_FETCH", "engine", "media_fetch", MediaFetch.ENGINE),
    ("MEDIA_FETCH_MAX_MB", "0.5", "media_fetch_max_mb", 0.5),
    ("MEDIA_FETCH_TIMEOUT", "5", "media_fetch_timeout", 5.0),
    ("MEDIA_FETCH_CONCURRENCY", "1", "media_fetch_concurrency", 1),
    ("MEDIA_MEMORY_MB", "256", "media_memory_mb", 256.0),
    ("WEDGE_SECONDS", "0", "wedge_seconds", 0.0),
    ("MAX_RESTARTS", "0", "max_restarts", 0),
    ("ON_ENGINE_FAILURE", "exit", "on_engine_failure", OnEngineFailure.EXIT),
    ("DRAIN_SECONDS", "0", "drain_seconds", 0.0),
    ("DRAIN_DELAY_SECONDS", "5", "drain_delay_seconds", 5.0),
    ("LOG_LEVEL", "WARNING", "log_level", "warning"),
    ("LOG_FORMAT", "text", "log_format", LogFormat.TEXT),
    ("METRICS_PORT", "9100", "metrics_port", 9100),
    ("LOG_FILE", "/workspace/sidecar.log", "log_file", "/workspace/sidecar.log"),
    ("GPU_PRICE_PER_HOUR", "1.99", "gpu_price_per_hour", 1.99),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "otlp_protocol", OtlpProtocol.GRPC),
    ("OTLP_TRACES_ENDPOINT", "none", "engine_traces_endpoint", "none"),
]
BAD: list[tuple[str, str, str]] = [
    ("HF_HOME", "~nobody-of-that-name/hf", "home folder"),
    ("MAX_MODEL_LEN", "lots", "auto"),
    ("MAX_MODEL_LEN", "-2", "auto"),
    ("GPU_MEMORY_UTIL", "0", "greater than 0"),
    ("GPU_MEMORY_UTIL", "95", "less than or equal to 1"),
    ("GPU_MEMORY_UTIL", "nan", "less than or equal to 1"),
    ("GPU_MEMORY_UTILIZATION", "1.1", "less than or equal to 1"),
    ("TENSOR_PARALLEL_SIZE", "0", "greater than or equal to 1"),
    ("MAX_NUM_SEQS", "1.5", "valid integer"),
    ("MAX_BATCHED_TOKENS", "-1", "greater than or equal to 0"),
    ("MAX_NUM_BATCHED_TOKENS", "many", "valid integer"),
    ("IMAGE_LIMIT", "-1", "greater than or equal to 0"),
    ("VIDEO_LIMIT", "x", "valid integer"),
    ("AUDIO_LIMIT", "-3", "greater than or equal to 0"),
    ("PORT", "abc", "valid integer"),
    ("PORT", "0", "greater than or equal to 1"),
    ("PORT", "65536", "less than or equal to 65535"),
    ("PORT_HEALTH", "-1", "greater than or equal to 1"),
    ("METRICS_PORT", "metrics", "valid integer"),
    ("METRICS_PORT", "0", "greater than or equal to 1"),
    ("UPSTREAM_PORT", "70000", "less than or equal to 65535"),
    ("HEALTH_CHECK_PATH", "ping", "'^/"),
    ("HEALTH_CHECK_PATH", "/a b", "'^/"),
    ("UPSTREAM_URL", "https://engine", "http://host:port"),
    ("UPSTREAM_URL", "engine:8000", "http://host:port"),
    ("UPSTREAM_URL", "http://", "http://host:port"),
    ("UPSTREAM_URL", "http://engine:http", "http://host:port"),
    ("UPSTREAM_URL", "http://engine:65536", "http://host:port"),
    ("UPSTREAM_URL", "http://engine:0", "http://host:port"),
    ("UPSTREAM_URL", "http://[::1", "http://host:port"),
    ("UPSTREAM_URL", "http://engine:8000/v1", "http://host:port"),
    ("UPSTREAM_URL", "http://me:password@engine", "http://host:port"),
    ("KEY_LIMITS", "all: rpm=lots", "allowed are rpm, tpm, tpd, in_flight, each as name=number"),
    ("KEY_LIMITS", ";", "allowed are rpm"),
    ("MAX_BODY_MB", "0", "greater than 0"),
    ("MAX_BODY_MB", "inf", "finite"),
    ("CORS_ORIGINS", "https://a/", "://"),
    ("CORS_ORIGINS", "https://a.b, c.d", "://"),
    ("ALLOWED_HOSTS", "a.b:8000", "ALLOWED_HOSTS"),
    ("ALLOWED_HOSTS", "https://a.b", "ALLOWED_HOSTS"),
    ("ALLOWED_HOSTS", "a.*", "ALLOWED_HOSTS"),
    ("BODY_TIMEOUT", "-1", "greater than or equal to 0"),
    ("MAX_IN_FLIGHT", "0", "greater than or equal to 1"),
    ("MAX_WAITING", "-1", "greater than or equal to 0"),
    ("WAITING_TIMEOUT", "-1", "greater than or equal to 0"),
    ("HOLD_SECONDS", "-1", "greater than or equal to 0"),
    ("HOLD_SECONDS", "inf", "finite"),
    ("STREAM_IDLE_TIMEOUT", "nan", "finite"),
    ("HOST", "a..b", "name of a host"),
    ("HEALTH_CHECK_PATH", "/{x}{x}", "'^/"),
    ("UPSTREAM_URL", "http://a..b:8000", "http://host:port"),
    ("MAX_BODY_MB", "1e308", "less than or equal to 1048576"),
    ("REQUEST_TIMEOUT", "1e308", "less than or equal to 31536000"),
    ("MAX_RESTARTS", "9" * 30, "less than or equal to 2147483647"),
    ("REQUEST_TIMEOUT", "soon", "valid number"),
    ("EXTRA_ROUTES", "/load, pause", "'^/"),
    ("SSE_KEEP_ALIVE_SECONDS", "-1", "greater than or equal to 0"),
    ("JSON_HEARTBEAT_SECONDS", "often", "valid number"),
    ("PROTOCOLS", "a.b.C", "should match pattern"),
    ("PROTOCOL_MODULES", "a/b", "should match pattern"),
    ("ALLOWED_MEDIA_DOMAINS", "https://a.org", "pattern"),
    ("ALLOWED_MEDIA_DOMAINS", "a.org, *.b.org", "pattern"),
    ("ALLOWED_MEDIA_DOMAINS", "a.org:443/", "pattern"),
    ("MEDIA_FETCH", "vllm", "'proxy' or 'engine'"),
    ("MEDIA_FETCH_MAX_MB", "0", "greater than 0"),
    ("MEDIA_FETCH_TIMEOUT", "-1", "greater than or equal to 0"),
    ("MEDIA_FETCH_CONCURRENCY", "0", "greater than or equal to 1"),
    ("MEDIA_MEMORY_MB", "0", "greater than 0"),
    ("WEDGE_SECONDS", "-1", "greater than or equal to 0"),
    ("MAX_RESTARTS", "-1", "greater than or equal to 0"),
    ("ON_ENGINE_FAILURE", "panic", "'hold' or 'exit'"),
    ("DRAIN_SECONDS", "inf", "finite"),
    ("DRAIN_DELAY_SECONDS", "-5", "greater than or equal to 0"),
    ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
    ("LOG_FORMAT", "xml", "'json' or 'text'"),
    ("GPU_PRICE_PER_HOUR", "0", "greater than 0"),
    ("GPU_PRICE_PER_HOUR", "$2", "valid number"),
    ("GPU_PRICE_PER_HOUR", "inf", "finite"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "'http/protobuf' or 'grpc'"),
    *((name, "maybe", "true, 1, yes, on and false, 0, no, off") for name in BOOLEANS),
]


@pytest.mark.parametrize(("name", "value", "field", "expected"), GOOD)
def test_a_good_value_is_taken(name: str, value: str, field: str, expected: object) -> None:
    assert getattr(Settings.load({name: value}), field) == expected


@pytest.mark.parametrize("name", BOOLEANS)
@pytest.mark.parametrize("expected", [True, False])
def test_booleans_take_the_usual_words(name: str, expected: bool) -> None:
    (field,) = [field for field, names in variables().items() if name in names]
    words = TRUE_WORDS if expected else FALSE_WORDS
    assert [getattr(Settings.load({name: word}), field) for word in words] == [expected] * 6


@pytest.mark.parametrize(("name", "value", "allowed"), BAD)
def test_a_bad_value_is_refused_in_one_line_with_name_value_and_what_is_allowed(
    name: str, value: str, allowed: str
) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load({name: value})
    text = str(refused.value)
    assert text.splitlines() == [text]
    assert text.startswith(f"{name}=")
    wrong = value.rpartition(", ")[2]
    assert repr(wrong) in text
    assert allowed in text


def test_every_variable_has_a_good_and_a_bad_case_here() -> None:
    names = {name for names in variables().values() for name in names}
    assert {name for name, *_ in GOOD} | set(BOOLEANS) | SECRETS == names
    assert {name for name, *_ in BAD} | FREE_TEXT | SECRETS == names


def test_a_value_of_several_lines_is_refused_in_one() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load({"PORT": "80\n00"})
    assert "\n" not in str(refused.value)


def test_variables_as_awss_images_of_vllm_have_them_are_those_without_the_prefix() -> None:
    settings = Settings.load({"SM_VLLM_MAX_MODEL_LEN": "512", "SM_VLLM_ENFORCE_EAGER": "true"})
    assert settings.max_model_len == "512"
    assert settings.environ == {"MAX_MODEL_LEN": "512", "ENFORCE_EAGER": "true"}
    both = Settings.load({"SM_VLLM_MAX_MODEL_LEN": "512", "MAX_MODEL_LEN": "1024"})
    assert both.max_model_len == "1024"


def test_a_platform_that_maps_the_port_says_where_clients_come_in() -> None:
    vast = {"PUBLIC_IPADDR": "65.130.162.74", "VAST_TCP_PORT_8000": "33526"}
    assert Settings.load(vast).outside_url == "http://65.130.162.74:33526"
    assert Settings.load({**vast, "PORT": "9000"}).outside_url is None
    assert Settings.load({}).outside_url is None


@pytest.mark.parametrize("empty", ["", " ", "\t\n"])
def test_empty_means_unset(empty: str) -> None:
    names = [name for names in variables().values() for name in names]
    assert Settings.load(dict.fromkeys(names, empty)) == Settings.load({})


@pytest.mark.parametrize("names", [names for names in variables().values() if len(names) > 1])
def test_the_first_name_of_a_variable_wins_and_an_empty_one_does_not(
    names: tuple[str, ...],
) -> None:
    (field,) = [field for field, known in variables().items() if known == names]
    environ = {name: f"0.{index}" for index, name in enumerate(names, start=1)}
    if field == "max_num_batched_tokens":
        environ = {name: str(index) for index, name in enumerate(names, start=1)}
    seen = []
    for name in names:
        seen.append(getattr(Settings.load(environ), field))
        assert seen[-1] == getattr(Settings.load({name: environ[name]}), field)
        environ[name] = ""
    assert len(set(seen)) == len(names)


def test_names_are_read_as_they_are_written() -> None:
    assert Settings.load({"port": "9", "Port": "9", "environ": "x"}).port == 8000


def test_the_whole_environment_is_kept_for_the_engine() -> None:
    settings = Settings.load({"MM_PROCESSOR_KWARGS": "{}", "EMPTY": "", "environ": "mine"})
    assert dict(settings.environ) == {"MM_PROCESSOR_KWARGS": "{}", "environ": "mine"}


def test_settings_cannot_be_changed() -> None:
    environ = {"SERVED_MODEL_NAME": "a"}
    settings = Settings.load(environ)
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1
    with pytest.raises(TypeError):
        settings.environ["PORT"] = "1"  # type: ignore[index]
    environ["SERVED_MODEL_NAME"] = "b"
    assert settings.environ["SERVED_MODEL_NAME"] == "a"


def test_secrets_do_not_show_where_settings_are_printed() -> None:
    settings = Settings.load({"HF_TOKEN": "hf_secret", "OTHER_SECRET": "hush", "PORT": "8000"})
    shown = f"{settings!r} {settings} {settings.model_dump_json(exclude={'hf_token'})}"
    assert "hf_secret" not in shown
    assert "hush" not in shown
    assert "port=8000" in shown


def test_a_refusal_does_not_show_other_variables() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load({"PORT": "x", "HF_TOKEN": "hf_secret"})
    assert "hf_secret" not in str(refused.value)
    assert refused.value.__suppress_context__, "pydantic's own error holds the whole environment"


def test_body_limit_is_in_mebibytes() -> None:
    assert Settings.load({}).max_body_bytes == 256 * 1024 * 1024
    assert Settings.load({"MAX_BODY_MB": "0.5"}).max_body_bytes == 512 * 1024


def test_memory_for_media_is_that_of_two_requests_and_not_less_than_that_of_one() -> None:
    assert Settings.load({"MAX_BODY_MB": "100"}).media_memory_bytes == 200 * 1024 * 1024
    both = {"MAX_BODY_MB": "100", "MEDIA_MEMORY_MB": "100"}
    assert Settings.load(both).media_memory_bytes == 100 * 1024 * 1024
    with pytest.raises(SettingsError) as error:
        Settings.load({"MEDIA_MEMORY_MB": "255.5"})
    reason = "less than one request may hold (MAX_BODY_MB=256)"
    assert str(error.value) == (f"MEDIA_MEMORY_MB=255.5: {reason}; raise it, or lower MAX_BODY_MB")


def test_every_variable_says_what_it_does() -> None:
    for field, names in variables().items():
        assert len(Settings.model_fields[field].description or "") > 10, names


@pytest.mark.parametrize("name", ["PORT", "PORT_HEALTH", "METRICS_PORT"])
def test_the_engine_does_not_get_a_port_of_ours(name: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings.load({name: "8001", "HF_TOKEN": "secret"})
    assert str(error.value) == f"UPSTREAM_PORT=8001: the same as {name}; allowed is any other"
    assert Settings.load({name: "8001", "UPSTREAM_URL": "http://h:1"})


def test_a_port_for_metrics_alone_is_no_other_port_of_ours() -> None:
    with pytest.raises(SettingsError) as error:
        Settings.load({"METRICS_PORT": "8080", "PORT_HEALTH": "8080"})
    assert str(error.value) == "METRICS_PORT=8080: the same as PORT_HEALTH; allowed is any other"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"METRICS_PORT": "8000"}, None),
        ({"METRICS_PORT": "8000", "PORT_HEALTH": "8000"}, None),
        ({"METRICS_PORT": "8000", "PORT_HEALTH": "8080"}, None),
        ({"METRICS_PORT": "8000", "PORT": "9000"}, 8000),
        ({"METRICS_PORT": "9100", "PORT_HEALTH": "8080"}, 9100),
    ],
)
def test_the_api_port_named_for_metrics_is_as_if_none_was_named(
    environ: dict[str, str], expected: int | None
) -> None:
    assert Settings.load(environ).port_of_metrics == expected


# Keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("alice:sk-1", [("alice", "sk-1")]),
        ("sk-1", [("key-1", "sk-1")]),
        (" alice : sk-1 ,, sk-2,", [("alice", "sk-1"), ("key-3", "sk-2")]),
        ("a@b.c:x:y:z", [("a@b.c", "x:y:z")]),
        ("#1:k#", None),
        ("a:k#", [("a", "k#")]),
    ],
)
def test_keys_have_labels_or_are_called_by_their_place(
    text: str, expected: list[tuple[str, str]] | None
) -> None:
    if expected is None:
        with pytest.raises(SettingsError):
            Settings.load({"API_KEYS": text})
        return
    keys = Settings.load({"API_KEYS": text}).api_keys
    assert [(each.label, each.key) for each in keys] == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (",", "there is no key in it"),
        ("alice:sk-hush,alice:sk-other", "two keys are called alice"),
        ("alice:sk-hush,bob:sk-hush", "bob is the same key as alice"),
        ("key-2:sk-hush,sk-other", "two keys are called key-2"),
        ("al ice:sk-hush", "number 1: a label has"),
        ("x:y,:sk-hush", "number 2: a label has"),
        ("alice:", "number 1: a key has"),
        ("alice:sk hush", "number 1: a key has"),
        ("alice:sk-hüsh-hush", "number 1: a key has"),
        (f"alice:{'hush' * 200}", "number 1: a key has"),
    ],
)
def test_wrong_keys_are_refused_by_place_and_never_shown(text: str, says: str) -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load({"API_KEYS": text})
    told = str(refused.value)
    assert told.splitlines() == [told]
    assert told.startswith("API_KEYS=***: ")
    assert says in told
    assert "hush" not in told


def test_keys_do_not_show_where_settings_are_printed() -> None:
    settings = Settings.load({"API_KEYS": "alice:sk-hush"})
    assert "hush" not in f"{settings!r} {settings} {settings.api_keys!r} {settings.api_keys[0]}"


# Limits of keys -------------------------------------------------------------------------------


def test_limits_are_for_each_key_for_some_and_for_all() -> None:
    text = " rpm=60, tpm=9000; alice : rpm=600 tpd=5 ;bob:tpm=1;; all:rpm=7"
    limits = Settings.load({"API_KEYS": "alice:k", "KEY_LIMITS": text}).key_limits
    assert limits is not None
    assert limits.each == Allowance(rpm=60, tpm=9000)
    assert limits.all == Allowance(rpm=7)
    assert limits.by_label == {"alice": Allowance(rpm=600, tpd=5), "bob": Allowance(tpm=1)}


@pytest.mark.parametrize(
    "text",
    [
        *("rpm", "rpm=", "rpm=0", "rpm=-1", "rpm=1.5", "rpm=1e3", "rps=1", "rpm=1,rpm=2", "=1"),
        *("alice:", ":rpm=1", "rpm=1;rpm=2", "a:rpm=1;a:tpm=2", "a:b:rpm=x", "rpm = 1"),
    ],
)
def test_limits_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"KEY_LIMITS=.*(allowed are|each label once)"):
        Settings.load({"API_KEYS": "alice:k", "KEY_LIMITS": text})


def test_limits_of_keys_need_keys() -> None:
    for text in ("rpm=1", "alice: rpm=1; all: rpm=2"):
        with pytest.raises(SettingsError, match="KEY_LIMITS: keys have limits, but there are none"):
            Settings.load({"KEY_LIMITS": text})
        assert Settings.load({"KEY_LIMITS": text, "API_KEYS_FILE": "/keys"})
    assert Settings.load({"KEY_LIMITS": "all: rpm=2"})


def test_the_engine_gets_the_values_as_they_were_read() -> None:
    others = {"PS1": "> ", "CHAT_TEMPLATE": "{{ a }} \n"}
    settings = Settings.load({"HF_TOKEN": "hf_secret\n", **others})
    assert settings.environ == {"HF_TOKEN": "hf_secret", **others}
