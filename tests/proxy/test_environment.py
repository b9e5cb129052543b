"""An environment as platforms hand it over: quotes that were left, Kubernetes' own addresses, and
values that no variable can mean."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from proxy.commands import check
from proxy.errors import SettingsError
from proxy.settings import Settings, variables
from proxy.settings.environment import shown, without_quotes, without_secrets
from proxy.vllm.command import engine_command, warnings_about
from proxy.vllm.module_imports import missing_package

# Quotes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", "a"),
        ('"a"', "a"),
        (' "a b"\n', "a b"),
        ('""', ""),
        ('"', '"'),
        ("\"a'", "\"a'"),
        # Words of a shell are quoted each by itself; the whole of them may be, too.
        ('"--a" "b"', '"--a" "b"'),
        ("'--a \"b\"'", '--a "b"'),
        # JSON and Jinja hold quotes of their own.
        ("'{\"max_pixels\": 1}'", '{"max_pixels": 1}'),
        ('"{\\"max_pixels\\": 1}"', '{"max_pixels": 1}'),
        ('{"max_pixels": 1}', '{"max_pixels": 1}'),
        ('"{% if m[\'a\'] == "b" %}x{% endif %}"', "{% if m['a'] == \"b\" %}x{% endif %}"),
        # One pair only: quotes that are meant stand in quotes of the other kind.
        ("'\"{{ a }}\"'", '"{{ a }}"'),
    ],
)
def test_one_pair_of_quotes_around_the_whole_value_is_taken_off(text: str, expected: str) -> None:
    assert without_quotes(text) == expected


def test_quotes_are_taken_off_settings_and_off_what_the_engine_gets_with_one_warning() -> None:
    settings = Settings.load(
        {
            "ADMIN_KEYS": '"ops:sk-hush-hush"',
            "API_KEYS": '"alice:sk-hush"',
            "PORT": "'9000'",
            "MM_PROCESSOR_KWARGS": "'{\"max_pixels\": 1003520}'",
            "VLLM_LOGGING_LEVEL": '"DEBUG"',
            "CUDA_VISIBLE_DEVICES": '"0"',
            "HF_TOKEN": '""',
        }
    )
    assert [key.key for key in settings.admin_keys] == ["sk-hush-hush"]
    assert [key.key for key in settings.api_keys] == ["sk-hush"]
    assert settings.port == 9000
    assert settings.hf_token is None
    command = engine_command(settings, model_path="m", served_names=["m"], has_gpu=True)
    after = command.argv.index("--mm-processor-kwargs") + 1
    assert command.argv[after] == '{"max_pixels": 1003520}'
    assert command.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert command.environ["CUDA_VISIBLE_DEVICES"] == "0"
    (warning,) = warnings_about(settings)
    assert warning == (
        "quotes around the value were taken off: ADMIN_KEYS, API_KEYS, CUDA_VISIBLE_DEVICES, "
        "HF_TOKEN, MM_PROCESSOR_KWARGS, PORT, VLLM_LOGGING_LEVEL; write it without them"
    )


def test_blanks_and_line_ends_are_taken_off_what_others_read_too() -> None:
    given = {"HF_HUB_DISABLE_XET": "1\n", "RUNPOD_POD_ID": " abc\n", "RUNPOD_API_KEY": "key\n"}
    given |= {"POD_IDLE_SECONDS": "1", "POD_IDLE_ACTION": "runpod-stop", "PS1": " \n"}
    given |= {"SM_VLLM_CHAT_TEMPLATE": " {{ messages }}\n"}
    settings = Settings.load(given)
    command = engine_command(settings, model_path="m", served_names=["m"], has_gpu=False)
    assert command.environ["HF_HUB_DISABLE_XET"] == "1"
    assert (settings.environ["RUNPOD_POD_ID"], settings.environ["RUNPOD_API_KEY"]) == ("abc", "key")
    assert "PS1" not in settings.environ
    assert settings.chat_template == " {{ messages }}\n"


KEYS_IN_QUOTES = ['alice:"sk-hush"', '"sk-hush","sk-other"', "sk-hush'", "`sk-hush`"]
KEYS_IN_QUOTES += ['["sk-hush"]', '["sk-hush", "sk-other"]', "alice:[sk-hush]"]


@pytest.mark.parametrize("text", KEYS_IN_QUOTES)
@pytest.mark.parametrize("name", ["API_KEYS", "ADMIN_KEYS"])
def test_a_key_with_quotes_around_it_is_refused_for_nobody_would_send_them(
    name: str, text: str
) -> None:
    with pytest.raises(
        SettingsError, match=f"^{name}=.*around a key would be part of it"
    ) as refused:
        Settings.load({name: text})
    assert "hush" not in str(refused.value)


# Kubernetes -----------------------------------------------------------------------------------

LINK = "tcp://10.43.1.39:9100"


@pytest.mark.parametrize("name", ["METRICS_PORT", "UPSTREAM_PORT", "SM_VLLM_PORT", "MASTER_PORT"])
def test_the_address_of_a_service_is_no_port_of_ours_or_of_the_engine(name: str) -> None:
    settings = Settings.load({name: LINK})
    defaults = Settings.load({})
    assert settings.model_dump() == defaults.model_dump()
    given = {"model_path": "m", "served_names": ["m"], "has_gpu": True}
    assert engine_command(settings, **given).argv == engine_command(defaults, **given).argv  # type: ignore[arg-type]
    (warning,) = warnings_about(settings)
    service = name.removesuffix("_PORT").lower().replace("_", "-")
    assert warning == (
        f"{name}={LINK} was set by Kubernetes for the Service {service!r} and is ignored; "
        "set enableServiceLinks: false in the pod's spec, or rename the Service"
    )


def test_the_addresses_of_other_services_are_none_of_our_business() -> None:
    links = {"WEB_PORT": LINK, "WEB_SERVICE_HOST": "10.43.1.39", "WEB_PORT_80_TCP_PORT": "80"}
    settings = Settings.load(links)
    assert settings.environ == links
    assert warnings_about(settings) == ()


# Values that no variable can mean -------------------------------------------------------------

WORDS = (
    "1e308",
    "9" * 5000,
    "nan",
    "a\udcffb",
    "a\0b",
    "/{x}{x}",
    "~nobody-of-that-name/x",
    "%s{}\n%d",
    "http://a..b",
)
MAX_LINE_CHARS = 1000
# A check parses some fifty files of vLLM for it, the same ones for each variable.
read_once = cache(missing_package)


@pytest.mark.parametrize("word", WORDS, ids=lambda word: ascii(word[:12]))
def test_whatever_a_variable_holds_a_check_ends_with_a_table_or_with_one_line(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("proxy.vllm.architectures.missing_package", read_once)
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    base = {
        "MODEL_NAME": str(model),
        "PATH": os.environ["PATH"],
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(tmp_path / "home"),
        "HOST": "127.0.0.1",
    }
    for spellings in variables().values():
        for name in spellings:
            replaced = {other for other in spellings if name != spellings[0]}
            environ = {other: text for other, text in base.items() if other not in replaced}
            complaint = None
            try:
                assert check.main({**environ, name: word}) in (0, 1), name
            except SettingsError as error:
                complaint = str(error)
            if complaint is None:
                assert capsys.readouterr().out.startswith("CHECK"), name
            else:
                assert "\n" not in complaint
                assert len(complaint) < MAX_LINE_CHARS
                assert name in complaint


def test_a_variable_that_is_no_text_is_named_and_its_value_is_not_repeated() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load({"HOST": "10.0.0.\udcff"})
    text = "HOST: its value is not UTF-8 text; allowed is text without NUL"
    assert str(refused.value) == text
    assert Settings.load({"FULL_NAME": "J\udcffrgen"}).environ["FULL_NAME"] == "J\udcffrgen"


def test_a_token_that_no_header_can_hold_is_refused_and_not_repeated() -> None:
    with pytest.raises(SettingsError, match=r"^HF_TOKEN=\*\*\*: allowed are ASCII characters"):
        Settings.load({"HF_TOKEN": "hf_\u200babc"})


def test_no_timeout_is_over_at_once() -> None:
    """0 is "never", as it is for WEDGE_SECONDS and the keep-alives."""
    timeouts = [name for (name, *_) in variables().values() if name.endswith("_TIMEOUT")]
    assert len(timeouts) == 5
    settings = Settings.load(dict.fromkeys(timeouts, "0"))
    fields = [field for field, (name, *_) in variables().items() if name in timeouts]
    assert [getattr(settings, field) for field in fields] == [None] * 5


def test_a_message_repeats_a_value_without_the_password_in_it() -> None:
    with pytest.raises(SettingsError) as refused:
        Settings.load({"UPSTREAM_URL": "http://me:hush@engine:8000"})
    assert str(refused.value).startswith("UPSTREAM_URL='http://***@engine:8000': allowed is ")
    assert "hush" not in shown('{"api_key": "hush"}')


@pytest.mark.parametrize("url", ["https://me:hush@h/org/model", "s3://b/m?token=hush"])
@pytest.mark.parametrize("name", ["{}", "a, {}"])
def test_an_address_of_a_model_that_has_a_secret_in_it_is_refused(name: str, url: str) -> None:
    """It would be in answers, in log lines, in the names that are served."""
    with pytest.raises(
        SettingsError, match=r"^MODEL_NAME=.*\*\*\*.*: allowed is a name"
    ) as refused:
        Settings.load({"MODEL_NAME": name.format(url)})
    assert "hush" not in str(refused.value)


# Secrets --------------------------------------------------------------------------------------

HF = "hf_aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567"
NAMES = (
    "token",
    "api_key",
    "apiKey",
    "X-Api-Key",
    "HF_TOKEN",
    "s3.secret_access_key",
    "passwd",
    "db-password",
    "credentials",
    "authorization",
    "x-amz-signature",
    "api_keys",
)
VALUES = ("hush", "hush-hush_2.0/+=", "ключhush", HF)
# With the name and the value of a secret, what may be shown before and behind it.
WITH_NAME = (
    '{"a": {"%s": "%s"}, "b": 1}',
    '{"%s":["%s", "hush"],"b": 1}',
    '{"%s": {"value": "%s"}, "b": 1}',
    "{'%s': '%s', 'b': 1}",
    '{"a": "{\\"%s\\": \\"%s\\"}", "b": 1}',
    '{"%s": "a\\"%s", "b": 1}',
    "vllm serve --%s=%s --b 1",
    "vllm serve --%s %s --b 1",
    "vllm serve --%s '%s hush' --b 1",
    "vllm serve --a.%s=%s --b 1",
    "https://h/a?x=1&%s=%s&b=1",
    '{"url": "https://h/a?%s=%s", "b": 1}',
    "['https://h/a?%s=%s', 'b']",
)
WITHOUT_NAME = (
    '{"url": "https://me:%s@h:1/x", "b": 1}',
    "https://%s@h/x b",
    "https://me:p@%s@h/x b",
    "redis://:%s@h b",
    "authorization: Bearer %s b",
    "[('authorization', 'bearer %s'), b]",
    "authorization: Basic %s b",
    "password=%s b",
    "HF_TOKEN=%s b",
    "api_key='%s hush', b",
    "x-api-key: %s b",
)


def hidden_in(text: str, secret: str) -> None:
    made = without_secrets(text)
    assert "hush" not in made, made
    assert secret not in made, made
    assert "***" in made, made
    assert "b" in made.rpartition("***")[2], "what comes behind it is still there"
    assert without_secrets(made) == made


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("form", WITH_NAME)
def test_what_is_called_a_secret_is_not_shown(form: str, value: str) -> None:
    for name in NAMES:
        hidden_in(form % (name, value), value)


@pytest.mark.parametrize("form", WITHOUT_NAME)
def test_what_looks_like_a_secret_is_not_shown(form: str) -> None:
    for value in ("hush", "ключhush", HF):
        hidden_in(form % value, value)


@pytest.mark.parametrize(
    "form", ["%s b", '["%s", "b"]', "--x=%s b", "a/%s b", "(%s) b", "a: %s, b"]
)
def test_a_token_of_the_hub_is_not_shown_wherever_it_is(form: str) -> None:
    hidden_in(form % HF, HF)
    assert without_secrets("hf_Secret01") == "hf_***"


@pytest.mark.parametrize(
    "text",
    [
        *(
            "org/model-7B",
            "/models/hf_cache/hf_Model7B",
            "s3://bucket/a@b",
            "sk-learn",
            "hf_overrides",
        ),
        *('["https://c","x@y"]', '{"hf_safetensors": 1, "hf_text_config": {}}', "scikit-learn"),
        *('{"num_key_value_heads": "8", "bos_token_id": 1, "max_tokens": "5"}', "tokens: 5"),
        *("--tokenizer org/x --max-num-batched-tokens 8", "--long-prefill-token-threshold 4"),
        *("num_key_value_heads=8, long_prefill_token_threshold=0, skip_tokenizer_init=False",),
        *("KeyError: 'lm_head.weight'", "unexpected keyword argument: 'x'", "key: lm_head"),
        *("argument --hf-token: expected one argument", "Set --max-model-len or HF_TOKEN."),
        *("GPU KV cache size: 1,024 tokens", "encoder_cudagraph_token_budgets': []"),
        *("http://h:1/v1?timeout=5&n=a", "", "\\" * 20_000, "?" * 20_000),
    ],
    ids=lambda text: text[:30],
)
def test_what_is_no_secret_is_shown(text: str) -> None:
    assert without_secrets(text) == text
