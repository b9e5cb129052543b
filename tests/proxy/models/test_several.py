"""`MODEL_NAME=a,b`: an environment of its own for each model, and what cannot go together."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.errors import SettingsError
from proxy.machine.hardware import Gpu, Hardware
from proxy.models import demo
from proxy.models.preset_choice import load_settings
from proxy.models.several import names_of
from proxy.preflight.checkup import check_gpus
from proxy.settings import Settings
from proxy.vllm.command import engine_command, warnings_about
from tests.tools import needs

PRESETS = {
    "big": {"repository": "org/big", "max_in_flight": 4, "gpus": [0, 1]},
    "small": {"repository": "org/small", "engine": {"MAX_MODEL_LEN": 1024}, "gpus": [1]},
    "same": {"repository": "org/other", "served_names": ["org/small"]},
    "private": {"repository": "org/private", "keys": ["alice"]},
    "sleepy": {"repository": "org/sleepy", "sleep": "level1"},
}
INLINE = {"MODELS_INLINE": json.dumps(PRESETS)}


def environ_of(settings: Settings) -> dict[str, str]:
    command = engine_command(settings, model_path="/m", served_names=["m"], has_gpu=True)
    return dict(command.environ)


def test_each_model_has_its_own_port_cache_names_and_variables() -> None:
    both = load_settings({**INLINE, "MODEL_NAME": "big, small", "VLLM_CACHE_ROOT": "/cache"})
    first, second = both.models
    assert [names_of(each) for each in both.models] == [("big", "org/big"), ("small", "org/small")]
    assert (first.upstream_port, second.upstream_port) == (8001, 8002)
    assert environ_of(first)["VLLM_CACHE_ROOT"] == "/cache"
    assert environ_of(second)["VLLM_CACHE_ROOT"] == "/cache/models/small"
    assert environ_of(first)["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert (first.max_in_flight, second.max_in_flight) == (4, None)
    assert (first.max_model_len, second.max_model_len) == (None, "1024")
    assert {each.hold_seconds for each in both.models} == {600}


def test_an_asterisk_is_every_preset_of_the_user_in_the_order_of_the_file() -> None:
    def named(value: str) -> list[str]:
        presets = {name: PRESETS[name] for name in ("big", "small")}
        both = load_settings({"MODELS_INLINE": json.dumps(presets), "MODEL_NAME": value})
        return [names_of(each)[0] for each in both.models]

    assert named("*") == ["big", "small"]
    assert named("small,*") == ["small", "big"]
    assert named("demo, *") == ["demo", "big", "small"]
    one = load_settings({"MODELS_INLINE": '{"a": {"repository": "org/a"}}', "MODEL_NAME": "*"})
    assert (one.others, one.is_of_set, one.hold_seconds) == ((), True, 600)


def test_a_model_keeps_its_port_and_a_new_one_gets_a_free_one() -> None:
    names = {**INLINE, "MODEL_NAME": "small,demo,big"}
    models = load_settings(names, {"big": 8001, "gone": 8002, "small": 8004}).models
    ports = {names_of(each)[0]: each.upstream_port for each in models}
    assert ports == {"small": 8004, "demo": 8003, "big": 8001}
    assert environ_of(models[0])["VLLM_CACHE_ROOT"].endswith("vllm/models/small")


@pytest.mark.parametrize("variable", ["PORT", "SERVICE_PORT", "PORT_HEALTH", "METRICS_PORT"])
def test_a_port_that_the_sidecar_chooses_is_none_of_its_own(variable: str) -> None:
    def ports(**engines: int) -> list[int]:
        environ = {**INLINE, "MODEL_NAME": "big,small,demo", variable: "8002"}
        return [each.upstream_port for each in load_settings(environ, engines).models]

    assert ports() == [8001, 8003, 8004]
    assert ports(big=8001, small=8003) == [8001, 8003, 8004], "after a reload"


def test_the_environment_goes_before_each_preset() -> None:
    shared = {"MAX_MODEL_LEN": "2048", "MAX_IN_FLIGHT": "9", "HOLD_SECONDS": "5"}
    both = load_settings({**INLINE, **shared, "MODEL_NAME": "big,small"})
    assert [each.max_model_len for each in both.models] == ["2048", "2048"]
    assert [each.max_in_flight for each in both.models] == [9, 9]
    assert [each.hold_seconds for each in both.models] == [5, 5]


def test_models_that_are_loaded_together_share_the_memory_of_their_gpu() -> None:
    def share(settings: Settings) -> str:
        argv = engine_command(settings, model_path="/m", served_names=["m"], has_gpu=True).argv
        return argv[argv.index("--gpu-memory-utilization") + 1]

    def shares(**environ: str) -> list[str]:
        return [
            share(each) for each in load_settings({"MODEL_NAME": "a/b,c/d,e/f", **environ}).models
        ]

    assert shares() == shares(MAX_LOADED_MODELS="1") == ["0.95"] * 3  # one at a time
    assert shares(MAX_LOADED_MODELS="2") == ["0.475"] * 3
    assert shares(MAX_LOADED_MODELS="9") == ["0.316"] * 3
    assert shares(MAX_LOADED_MODELS="2", GPU_MEMORY_UTIL="0.3") == ["0.3"] * 3
    alone = {"one": {"repository": "a/b", "gpus": [0]}, "two": {"repository": "c/d", "gpus": [1]}}
    apart = load_settings({"MODEL_NAME": "one,two", "MODELS_INLINE": json.dumps(alone)})
    assert [share(each) for each in apart.models] == ["0.95", "0.95"]


def test_models_share_the_gpus_that_their_engines_take() -> None:
    """The first TENSOR_PARALLEL_SIZE of those that it sees."""
    presets = {
        "first": {"repository": "a/b"},
        "second": {"repository": "c/d", "gpus": [1, 2]},
        "both": {"repository": "e/f", "engine": {"TENSOR_PARALLEL_SIZE": 2}},
        "all": {"repository": "g/h", "engine": {"NNODES": 2}},
    }
    inline = {"MODELS_INLINE": json.dumps(presets)}
    models = load_settings({"MODEL_NAME": "first,second,both,all", **inline}).models
    assert [each.gpu_sharers for each in models] == [3, 3, 4, 4]
    models = load_settings({"MODEL_NAME": "first,second", **inline}).models
    assert [each.gpu_sharers for each in models] == [1, 1]
    too_many = {"PIPELINE_PARALLEL_SIZE": str(10**12)}  # more than there is memory for
    models = load_settings({"MODEL_NAME": "first,second,both", **inline, **too_many}).models
    assert [each.gpu_sharers for each in models] == [3, 3, 3]


@pytest.mark.parametrize(
    ("visible", "given"), [("2,3", "2,3"), ("GPU-a , GPU-b,GPU-c", "GPU-a,GPU-b")]
)
def test_gpus_of_a_preset_are_places_among_those_that_the_pod_shows(
    visible: str, given: str
) -> None:
    shown = {"CUDA_VISIBLE_DEVICES": visible}
    first, second = load_settings({**INLINE, **shown, "MODEL_NAME": "big,small"}).models
    assert environ_of(first)["CUDA_VISIBLE_DEVICES"] == given
    assert environ_of(second)["CUDA_VISIBLE_DEVICES"] == given.split(",")[1]
    assert environ_of(second)["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    whole = load_settings({**INLINE, **shown, "MODEL_NAME": "same,private", "API_KEYS": "alice:sk"})
    assert environ_of(whole)["CUDA_VISIBLE_DEVICES"] == visible, "as it is"


def test_one_name_is_one_model(tmp_path: Path) -> None:
    folder = tmp_path / "a,b"
    folder.mkdir()
    for name in ("demo", "demo,", str(folder)):
        assert load_settings({"MODEL_NAME": name}).others == ()
    assert load_settings({"MODEL_NAME": "demo"}).hold_seconds == 0


def test_engines_of_others_are_several_too() -> None:
    both = load_settings({"UPSTREAM_URL": "a=http://one:8000,b=http://other:8000"})
    assert [each.upstream_url for each in both.models] == ["http://one:8000", "http://other:8000"]
    assert [names_of(each) for each in both.models] == [("a",), ("b",)]


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"MODEL_NAME": "*", "MODELS_INLINE": ""}, "MODEL_NAME=* is every preset of"),
        ({"MODEL_NAME": "demo,*,*"}, "big stands there twice"),
        ({"MODEL_NAME": "big,demo,big"}, "MODEL_NAME: big stands there twice"),
        ({"MODEL_NAME": "small,same"}, "small and same are both served as org/small"),
        ({"MODEL_NAME": "big,small", "SERVED_MODEL_NAME": "x"}, "set served_names"),
        ({"MODEL_NAME": "big,small", "UPSTREAM_PORT": "8000"}, "UPSTREAM_PORT=8000: the same as"),
        ({"MODEL_NAME": "big,private"}, "keys=alice, but there are no keys"),
        ({"MODEL_NAME": "private"}, "keys=alice, but there are no keys"),
        ({"UPSTREAM_URL": "a=http://one,a=http://two"}, "UPSTREAM_URL: a stands there twice"),
        ({"UPSTREAM_URL": "a=http://one,http://two"}, "name=http://host:port"),
        ({"MODELS_INLINE": "[demo]\nrepository = 'a/b'"}, "MODELS_INLINE: [demo] cannot be a name"),
        ({"MODELS_INLINE": '{"a": 1}'}, "MODELS_INLINE: [a] is no table"),
        ({"MODELS_INLINE": "{a"}, "MODELS_INLINE: no JSON"),
        (
            {"MODEL_NAME": "sleepy", "UPSTREAM_URL": "http://127.0.0.1:1"},
            "preset sleepy: sleep=level1 is not for UPSTREAM_URL",
        ),
        (
            {"MODEL_NAME": "sleepy", "UPSTREAM_URL": "sleepy=http://one,small=http://two"},
            "preset sleepy: sleep=level1 is not for UPSTREAM_URL",
        ),
        (
            {"MODEL_NAME": "sleepy", "EXTRA_ROUTES": "/load,/v1/../Sleep"},
            "EXTRA_ROUTES=/v1/../Sleep: a model here has sleep=level1",
        ),
        (
            {"MODEL_NAME": "small,sleepy", "EXTRA_ROUTES": "/weight_checker"},
            "EXTRA_ROUTES=/weight_checker: a model here has sleep=level1",
        ),
    ],
)
def test_what_cannot_be_is_one_line(environ: dict[str, str], says: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load_settings({**INLINE, **environ})
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_gpu_that_is_not_here_is_found_before_anything_is_fetched() -> None:
    settings = load_settings({**INLINE, "MODEL_NAME": "small,demo"})
    check_gpus(settings, Hardware((Gpu("A", 1), Gpu("A", 1))))
    with pytest.raises(
        SettingsError, match=r"preset small: gpus: there is no GPU 1 here; .* 0 to 0"
    ):
        check_gpus(settings, Hardware((Gpu("A", 1),)))
    with pytest.raises(SettingsError, match="there is no GPU"):
        check_gpus(settings, Hardware())


def test_gpus_of_a_preset_are_as_many_as_its_engine_takes() -> None:
    three = Hardware((Gpu("A", 1), Gpu("A", 1), Gpu("A", 1)))

    def of(gpus: list[int], **engine: int) -> Settings:
        preset = {"repository": "a/b", "gpus": gpus, "engine": engine}
        return load_settings({"MODEL_NAME": "one", "MODELS_INLINE": json.dumps({"one": preset})})

    with pytest.raises(SettingsError, match=r"preset one: gpus: 2 are fewer than the 4"):
        check_gpus(of([0, 1], TENSOR_PARALLEL_SIZE=2, PIPELINE_PARALLEL_SIZE=2), three)
    enough = of([0, 1], TENSOR_PARALLEL_SIZE=2)
    check_gpus(enough, three)
    assert warnings_about(enough) == ()
    (warning,) = warnings_about(of([0, 1, 2], TENSOR_PARALLEL_SIZE=2))
    assert "names 3, and its engine takes the first 2" in warning
    assert "TENSOR_PARALLEL_SIZE=3" in warning


def test_counters_that_the_engine_of_any_model_lacks_are_warned_about() -> None:
    quiet = {"repository": "a/b", "engine": {"DISABLE_LOG_STATS": True}}
    given = {"MODELS_INLINE": json.dumps({"quiet": quiet}), "MODEL_NAME": "demo,quiet"}
    (warning,) = warnings_about(load_settings(given))
    assert warning.startswith("DISABLE_LOG_STATS takes vLLM's counters away")


@needs("tokenizers")
def test_the_text_only_demo_is_a_llama(tmp_path: Path) -> None:
    demo.build(tmp_path / "demo-text", text_only=True)
    config = json.loads((tmp_path / "demo-text" / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    header = (tmp_path / "demo-text" / "model.safetensors").read_bytes()[:200]
    assert b"model.embed_tokens.weight" in header
    assert not (tmp_path / "demo-text" / "preprocessor_config.json").exists()
