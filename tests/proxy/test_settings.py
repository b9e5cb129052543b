"""Every environment variable: what it takes, what it refuses, and how it says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from proxy.errors import SettingsError
from proxy.settings import LogFormat, Settings, variables
from proxy.settings.allowance import Allowance, KeyLimits
from scripts.reference import groups

HOME = Path.home()
TRUE_WORDS = ("true", "1", "yes", "on", "True", "YES")
FALSE_WORDS = ("false", "0", "no", "off", "False", "NO")
BOOLEANS = [
    name
    for field, (name, *_) in variables().items()
    if Settings.model_fields[field].annotation is bool
]
# Where a value is more than the word that was written. That each variable takes a good value at all
# is tested with .env.example (tests/test_reference.py).
GOOD: list[tuple[str, str, str, Any]] = [
    ("MODEL_NAME", " a/b\n", "model_name", "a/b"),
    ("HF_TOKEN", "hf_secret\n", "hf_token", "hf_secret"),
    ("WARMUP", "false ", "warmup", False),
    ("LOG_FORMAT", "text\n", "log_format", LogFormat.TEXT),
    ("CHAT_TEMPLATE", "{{ messages }}\n", "chat_template", "{{ messages }}\n"),
    ("SERVED_MODEL_NAME", " a , b,, ", "served_model_names", ("a", "b")),
    ("OPENAI_SERVED_MODEL_NAME_OVERRIDE", "a,b", "served_model_names", ("a", "b")),
    ("HF_HOME", "~/hf", "hf_home", f"{HOME}/hf"),
    ("MODELS_FILE", "~/models.toml", "models_file", f"{HOME}/models.toml"),
    ("API_KEYS_FILE", "~/keys", "api_keys_file", f"{HOME}/keys"),
    ("LOG_FILE", "~/sidecar.log", "log_file", f"{HOME}/sidecar.log"),
    ("CHAT_TEMPLATE", "~/a.jinja", "chat_template", f"{HOME}/a.jinja"),
    ("MAX_MODEL_LEN", "-1", "max_model_len", "-1"),
    ("MAX_MODEL_LEN", "1.5k", "max_model_len", "1.5k"),
    ("GPU_MEMORY_UTIL", "1", "gpu_memory_utilization", 1.0),
    ("MAX_MODEL_LEN", "AUTO", "max_model_len", "AUTO"),
    ("MAX_BATCHED_TOKENS", "0", "max_num_batched_tokens", 0),
    ("MAX_BATCHED_TOKENS", "8k", "max_num_batched_tokens", 8000),
    ("MAX_NUM_BATCHED_TOKENS", "8K", "max_num_batched_tokens", 8192),
    ("MAX_NUM_BATCHED_TOKENS", "25.6k", "max_num_batched_tokens", 25600),
    ("IMAGE_LIMIT", "0", "image_limit", 0),
    ("PORT", "65535", "port", 65535),
    ("UPSTREAM_URL", "http://engine/", "upstream_url", "http://engine/"),
    ("UPSTREAM_URL", "http://[::1]:8000", "upstream_url", "http://[::1]:8000"),
    ("KEY_LIMITS", "all: rpm=600", "key_limits", KeyLimits(all=Allowance(rpm=600))),
    ("MAX_BODY_MB", "0.5", "max_body_mb", 0.5),
    ("CORS_ORIGINS", "*", "cors_origins", ("*",)),
    ("CORS_ORIGINS", "https://a, http://c:3000", "cors_origins", ("https://a", "http://c:3000")),
    ("ALLOWED_HOSTS", "*", "allowed_hosts", ("*",)),
    ("ALLOWED_HOSTS", "a.b, *.c", "allowed_hosts", ("a.b", "*.c")),
    ("MAX_WAITING", "0", "max_waiting", 0),
    ("REQUEST_TIMEOUT", "2.5", "request_timeout", 2.5),
    ("REQUEST_TIMEOUT", "0", "request_timeout", None),
    ("EXTRA_ROUTES", "/load, /pause", "extra_routes", ("/load", "/pause")),
    ("PROTOCOLS", "a.b:C, d:E", "protocols", ("a.b:C", "d:E")),
    ("ALLOWED_MEDIA_DOMAINS", "a.org, b.org", "allowed_media_domains", ("a.org", "b.org")),
    ("WEDGE_SECONDS", "0", "wedge_seconds", 0.0),
    ("LOG_LEVEL", "WARNING", "log_level", "warning"),
]
BAD: list[tuple[str, str, str]] = [
    ("HF_HOME", "~nobody-of-that-name/hf", "home folder"),
    ("MAX_MODEL_LEN", "lots", "auto"),
    ("MAX_MODEL_LEN", "-2", "auto"),
    ("MAX_MODEL_LEN", "8.5K", "auto"),
    ("GPU_MEMORY_UTIL", "0", "greater than 0"),
    ("GPU_MEMORY_UTIL", "95", "less than or equal to 1"),
    ("GPU_MEMORY_UTIL", "nan", "less than or equal to 1"),
    ("TENSOR_PARALLEL_SIZE", "0", "greater than or equal to 1"),
    ("MAX_NUM_SEQS", "1.5", "valid integer"),
    ("MAX_BATCHED_TOKENS", "8.5K", "allowed is a whole number, or one such as 8k"),
    ("MAX_BATCHED_TOKENS", "1t", "less than or equal to 2147483647"),
    ("IMAGE_LIMIT", "-1", "greater than or equal to 0"),
    ("PORT", "0", "greater than or equal to 1"),
    ("PORT", "65536", "less than or equal to 65535"),
    ("HEALTH_CHECK_PATH", "ping", "allowed is a path that begins with /"),
    ("HEALTH_CHECK_PATH", "/a b", "allowed is a path that begins with /"),
    ("UPSTREAM_URL", "https://engine", "http://host:port"),
    ("UPSTREAM_URL", "http://", "http://host:port"),
    ("UPSTREAM_URL", "http://engine:http", "http://host:port"),
    ("UPSTREAM_URL", "http://engine:65536", "http://host:port"),
    ("UPSTREAM_URL", "http://[::1", "http://host:port"),
    ("UPSTREAM_URL", "http://engine:8000/v1", "http://host:port"),
    ("KEY_LIMITS", "all: rpm=lots", "allowed are rpm, tpm, tpd, in_flight, loads_per_hour, each"),
    ("KEY_LIMITS", ";", "allowed are rpm"),
    ("MAX_BODY_MB", "0", "greater than 0"),
    ("MAX_MODEL_LEN", "8 k", "allowed is a whole number, one such as 8k, or auto"),
    ("CORS_ORIGINS", "https://a/", "allowed is https://host, with a port or without, or *"),
    ("CORS_ORIGINS", "https://a.b, c.d", "://"),
    ("ALLOWED_HOSTS", "a.b:8000", "allowed is a name without port and path, *.name, or *"),
    ("ALLOWED_HOSTS", "a.*", "ALLOWED_HOSTS"),
    ("HOLD_SECONDS", "inf", "finite"),
    ("HOST", "a..b", "name of a host"),
    ("HEALTH_CHECK_PATH", "/{x}{x}", "allowed is a path that begins with /"),
    ("UPSTREAM_URL", "http://a..b:8000", "http://host:port"),
    ("MAX_BODY_MB", "1e308", "less than or equal to 1048576"),
    ("REQUEST_TIMEOUT", "1e308", "less than or equal to 31536000"),
    ("MAX_RESTARTS", "9" * 30, "less than or equal to 2147483647"),
    ("REQUEST_TIMEOUT", "soon", "valid number"),
    ("EXTRA_ROUTES", "/load, pause", "allowed is a path that begins with /"),
    ("PROTOCOLS", "a.b.C", "allowed is the name of a class, as package.module:Name"),
    ("PROTOCOL_MODULES", "a/b", "allowed is a module's name, such as package.module"),
    ("ALLOWED_MEDIA_DOMAINS", "https://a.org", "allowed is the name or the address of a host"),
    ("ALLOWED_MEDIA_DOMAINS", "a.org, *.b.org", "allowed is the name or the address of a host"),
    ("ALLOWED_MEDIA_DOMAINS", "a.org:443/", "allowed is the name or the address of a host"),
    ("LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
    ("GPU_PRICE_PER_HOUR", "$2", "valid number"),
    ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json", "'http/protobuf' or 'grpc'"),
    *((name, "maybe", "true, 1, yes, on and false, 0, no, off") for name in BOOLEANS),
]


@pytest.mark.parametrize(("name", "value", "field", "expected"), GOOD)
def test_a_good_value_is_taken(name: str, value: str, field: str, expected: object) -> None:
    assert getattr(Settings.load({name: value}), field) == expected


@pytest.mark.parametrize(("words", "expected"), [(TRUE_WORDS, True), (FALSE_WORDS, False)])
def test_booleans_take_the_usual_words(words: tuple[str, ...], expected: bool) -> None:
    for word in words:
        assert Settings.load({"WARMUP": word}).warmup is expected


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
    assert "pattern" not in text, "words, not a regular expression"


@pytest.mark.parametrize(
    "name", [each.name for _, _, declared in groups() for each in declared if each.allowed]
)
def test_a_variable_whose_values_are_listed_takes_no_other_word(name: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}='some other word': "):
        Settings.load({name: "some other word"})


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
    (field,) = [field for field, spellings in variables().items() if spellings == names]
    environ = {name: f"0.{index}" for index, name in enumerate(names, start=1)}
    if field in ("max_num_batched_tokens", "port"):
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
    message = str(refused.value)
    assert message.splitlines() == [message]
    assert message.startswith("API_KEYS=***: ")
    assert says in message
    assert "hush" not in message


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
        "rpm",
        "rpm=",
        "rpm=0",
        "rpm=-1",
        "rpm=1.5",
        "rps=1",
        "rpm=1,rpm=2",
        "=1",
        "alice:",
        ":rpm=1",
        "rpm=1;rpm=2",
        "a:rpm=1;a:tpm=2",
        "a:b:rpm=x",
        "rpm = 1",
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
    template = {"CHAT_TEMPLATE": "{{ a }} \n"}
    settings = Settings.load({"HF_TOKEN": "hf_secret\n", **template})
    assert settings.environ == {"HF_TOKEN": "hf_secret", **template}
