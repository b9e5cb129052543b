"""Which arguments a variable named like a flag of vLLM stands for."""

from __future__ import annotations

import pytest

from proxy.errors import SettingsError
from proxy.settings import Settings
from proxy.vllm.flags import (
    adapter_names,
    arguments,
    flag_name,
    gpus_taken,
    is_changed,
    known_flags,
    value_of,
)

LORA = '{"name": "a", "path": "/a", "base_model_name": "c"}'


def variable_of(flag: str) -> str:
    return flag.upper().replace("-", "_")


@pytest.mark.parametrize(
    ("environ", "value"),
    [
        ({}, None),
        ({"LOAD_FORMAT": "dummy"}, "dummy"),
        ({"VLLM_EXTRA_ARGS": "--load-format dummy"}, "dummy"),
        ({"VLLM_EXTRA_ARGS": "--load_format=dummy"}, "dummy"),
        ({"VLLM_EXTRA_ARGS": "--load-f dummy", "LOAD_FORMAT": "auto"}, "dummy"),
        ({"VLLM_EXTRA_ARGS": "--chat-template --load-format"}, ""),
        ({"VLLM_EXTRA_ARGS": "--chat-template=--load-format"}, None),
    ],
)
def test_the_value_of_a_flag_is_that_of_the_arguments_or_else_of_the_variable(
    environ: dict[str, str], value: str | None
) -> None:
    assert value_of(Settings.load(environ), "load-format") == value


@pytest.mark.parametrize(
    ("arguments", "is_on"),
    [
        ("", True),
        ("--no-enable-sleep-mode", False),
        ("--no_enable_sleep_mode", False),
        ("--no-enable-sleep", False),
        ("--no-enable-sleep-mode --enable-sleep-mode", True),
        ("--enable-sleep-mode --no-enable-sleep-mode", False),
        ("--no-enforce-eager", True),
    ],
)
def test_a_flag_in_its_no_form_is_off_whatever_its_variable_says(
    arguments: str, is_on: bool
) -> None:
    environ = {"ENABLE_SLEEP_MODE": "true", "VLLM_EXTRA_ARGS": arguments}
    assert is_changed(Settings.load(environ), "enable-sleep-mode") is is_on


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SEED", "1", ["--seed", "1"]),
        ("LOAD_FORMAT", "auto\n", ["--load-format", "auto"]),
        ("COMPILATION_CONFIG", '{"level": 3}', ["--compilation-config", '{"level": 3}']),
        ("CHAT_TEMPLATE", "a, b", ["--chat-template", "a, b"]),
        ("ENFORCE_EAGER", " ON ", ["--enforce-eager"]),
        ("ENFORCE_EAGER", "0", ["--no-enforce-eager"]),
        # It has no opposite: leaving it out is the opposite.
        ("DISABLE_LOG_STATS", "no", []),
        ("CUDAGRAPH_CAPTURE_SIZES", "1,2, 4", ["--cudagraph-capture-sizes", "1", "2", "4"]),
        ("CUDAGRAPH_CAPTURE_SIZES", "[1, 2]", ["--cudagraph-capture-sizes", "1", "2"]),
        ("LORA_MODULES", "a=/a, b=/b", ["--lora-modules", "a=/a", "b=/b"]),
        ("LORA_MODULES", LORA, ["--lora-modules", LORA]),
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


@pytest.mark.parametrize(
    ("environ", "count"),
    [
        ({}, 1),
        ({"TENSOR_PARALLEL_SIZE": "4.0"}, 4),
        ({"TENSOR_PARALLEL_SIZE": "2", "PIPELINE_PARALLEL_SIZE": "2"}, 4),
        ({"TENSOR_PARALLEL_SIZE": "2", "VLLM_EXTRA_ARGS": "-tp 4 --pipeline-parallel-size=2"}, 8),
        ({"VLLM_EXTRA_ARGS": "--nnodes 2"}, None),
        ({"DISTRIBUTED_EXECUTOR_BACKEND": "ray"}, None),
        ({"DATA_PARALLEL_EXTERNAL_LB": "true"}, None),
        ({"VLLM_EXTRA_ARGS": "--data-parallel-hybrid-lb"}, None),
        # What vLLM would do anyway.
        ({"TENSOR_PARALLEL_SIZE": "2", "DISTRIBUTED_EXECUTOR_BACKEND": "mp"}, 2),
        ({"DISTRIBUTED_EXECUTOR_BACKEND": "uni", "NNODES": "1"}, 1),
        ({"DATA_PARALLEL_EXTERNAL_LB": "false", "DATA_PARALLEL_HYBRID_LB": "0"}, 1),
        (
            {"VLLM_EXTRA_ARGS": "--no-data-parallel-external-lb", "DATA_PARALLEL_EXTERNAL_LB": "1"},
            1,
        ),
        ({"DATA_PARALLEL_SIZE": "two"}, None),
        ({"PIPELINE_PARALLEL_SIZE": " 2\n"}, 2),
        ({"pipeline_parallel_size": "2", "nnodes": "2"}, 1),
    ],
)
def test_an_engine_takes_the_first_gpus_one_for_each_rank(
    environ: dict[str, str], count: int | None
) -> None:
    assert gpus_taken(Settings.load(environ)) == count


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


@pytest.mark.parametrize("flag", [name for name, flag in known_flags().items() if flag.json])
def test_a_flag_takes_json_of_its_type(flag: str) -> None:
    variable, is_array = variable_of(flag), known_flags()[flag].json == "array"
    good, bad = ('["a"]', "{}") if is_array else ("{}", "[1]")
    assert arguments(variable, good) == [f"--{flag}", good]
    wrong = ["[" * 50_000, "{'a': 1}", "'{}'", '"{}"', "[", "{"]
    wrong += [] if known_flags()[flag].json == "object or text" else [bad, "1", "null", "true"]
    for value in wrong:
        with pytest.raises(SettingsError) as refused:
            arguments(variable, value)
        line = str(refused.value)
        assert line.startswith(f"{variable}=")
        assert f"allowed is a JSON {'array' if is_array else 'object'} without quotes" in line
        assert len(line) < 800
        assert "\n" not in line


@pytest.mark.parametrize("flag", [name for name, flag in known_flags().items() if flag.number])
def test_a_flag_takes_numbers_of_its_type(flag: str) -> None:
    variable, known = variable_of(flag), known_flags()[flag]
    number = known.choices[0] if known.choices else "7"
    assert arguments(variable, f" {number} ") == [f"--{flag}", number]
    assert (known.number == "number") == _takes(variable, "7.5")
    assert (known.number in ("size", "size or auto")) == _takes(variable, "8k")
    assert (known.number == "size or auto") == _takes(variable, "auto")
    assert known.optional == _takes(variable, "None")
    for value in ("many", "0x10", "5s", "7,5 GiB", "{}"):
        assert not _takes(variable, value)


def _takes(variable: str, value: str) -> bool:
    try:
        arguments(variable, value)
    except SettingsError:
        return False
    return True


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({}, ()),
        ({"LORA_MODULES": "a=/a, b=/b"}, ("a", "b")),
        ({"LORA_MODULES": LORA}, ("a",)),
        ({"VLLM_EXTRA_ARGS": "--enable-lora --lora-modules a=/a b=/b --seed 1"}, ("a", "b")),
        ({"VLLM_EXTRA_ARGS": f"--lora-modules '{LORA}' d=/d"}, ("a", "d")),
        ({"VLLM_EXTRA_ARGS": "--lora_modules=a=/a"}, ("a",)),
        ({"VLLM_EXTRA_ARGS": "--lora-m a=/a"}, ("a",)),
        ({"LORA_MODULES": "a=/a", "VLLM_EXTRA_ARGS": "--lora-modules b=/b"}, ("b",)),
    ],
)
def test_names_of_adapters_are_read_wherever_they_are_set(
    environ: dict[str, str], names: tuple[str, ...]
) -> None:
    assert adapter_names(Settings.load(environ)) == names


@pytest.mark.parametrize("module", ["a", "=/a", "a=", "{}", "[1]", '{"name": 1, "path": "/a"}'])
def test_an_adapter_without_a_name_or_a_path_is_refused(module: str) -> None:
    for environ in ({"LORA_MODULES": module}, {"VLLM_EXTRA_ARGS": f"--lora-modules '{module}'"}):
        with pytest.raises(
            SettingsError, match=r"(?i)lora.modules=.*: allowed is name=path, or \{"
        ):
            adapter_names(Settings.load(environ))
