"""Which arguments a variable named like a flag of vLLM stands for."""

from __future__ import annotations

import pytest

from proxy.errors import SettingsError
from proxy.vllm.flags import arguments, flag_name, known_flags

LORA = '{"name": "a", "path": "/a", "base_model_name": "c"}'


def variable_of(flag: str) -> str:
    return flag.upper().replace("-", "_")


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SEED", "1", ["--seed", "1"]),
        ("LOAD_FORMAT", "auto\n", ["--load-format", "auto"]),
        ("TOKENIZER_MODE", " hf ", ["--tokenizer-mode", "hf"]),
        ("COMPILATION_CONFIG", '{"level": 3}', ["--compilation-config", '{"level": 3}']),
        ("CHAT_TEMPLATE", "a, b", ["--chat-template", "a, b"]),
        ("ENFORCE_EAGER", "true", ["--enforce-eager"]),
        ("ENFORCE_EAGER", " ON ", ["--enforce-eager"]),
        ("ENFORCE_EAGER", "0", ["--no-enforce-eager"]),
        ("DISABLE_LOG_STATS", "yes", ["--disable-log-stats"]),
        # It has no opposite: leaving it out is the opposite.
        ("DISABLE_LOG_STATS", "no", []),
        ("CUDAGRAPH_CAPTURE_SIZES", "1,2, 4", ["--cudagraph-capture-sizes", "1", "2", "4"]),
        ("CUDAGRAPH_CAPTURE_SIZES", "[1, 2]", ["--cudagraph-capture-sizes", "1", "2"]),
        ("LORA_MODULES", "a=/a, b=/b", ["--lora-modules", "a=/a", "b=/b"]),
        ("LORA_MODULES", LORA, ["--lora-modules", LORA]),
        ("LORA_MODULES", f"{LORA}, {LORA}", ["--lora-modules", LORA, LORA]),
        ("LORA_MODULES", f"[{LORA}, {LORA}]\n", ["--lora-modules", LORA, LORA]),
        ("MIDDLEWARE", "a.B", ["--middleware", "a.B"]),
        ("MIDDLEWARE", "a.B, c.D,", ["--middleware", "a.B", "--middleware", "c.D"]),
        ("COLLECT_DETAILED_TRACES", "model,worker", ["--collect-detailed-traces", *"mw"]),
    ],
)
def test_a_value_becomes_words_as_the_flag_takes_them(
    variable: str, value: str, expected: list[str]
) -> None:
    names = {"m": "model", "w": "worker"}
    assert arguments(variable, value) == [names.get(word, word) for word in expected]


def test_a_list_that_is_half_json_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"^LORA_MODULES='\{\"name\": \"a\"': no JSON"):
        arguments("LORA_MODULES", '{"name": "a"')


@pytest.mark.parametrize("word", ["maybe", "2", "enable", "true,false"])
def test_a_boolean_takes_only_the_usual_words(word: str) -> None:
    with pytest.raises(SettingsError) as refused:
        arguments("ENFORCE_EAGER", word)
    assert str(refused.value) == (
        f"ENFORCE_EAGER={word!r}: allowed are true, 1, yes, on and false, 0, no, off "
        "(vLLM's --enforce-eager)"
    )


@pytest.mark.parametrize("flag", [name for name, flag in known_flags().items() if flag.choices])
def test_a_flag_with_choices_takes_them(flag: str) -> None:
    for choice in known_flags()[flag].choices:
        assert arguments(variable_of(flag), choice) == [f"--{flag}", choice]


def test_no_argument_is_ever_a_boolean_with_a_value() -> None:
    booleans = [name for name, flag in known_flags().items() if flag.kind == "boolean"]
    for name in booleans:
        for value in ("true", "false"):
            assert len(arguments(variable_of(name), value)) <= 1, name
    assert len(booleans) > 50


def test_each_flag_has_one_variable() -> None:
    names = {variable_of(flag): flag for flag in known_flags()}
    assert len(names) == len(known_flags()) > 200
    assert all(flag_name(variable) == flag for variable, flag in names.items())
