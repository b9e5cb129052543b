"""What the installed vLLM can run, read from its source."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from proxy.errors import Cause, EngineFailure
from proxy.preflight.finding import Result
from proxy.settings import Settings
from proxy.vllm import architectures
from proxy.vllm.architectures import check_architecture, installed_registry, parse_registry
from proxy.vllm.description import Description, ModelConfig
from tests.tools import needs

SOURCE = b"""
_TEXT = {"LlamaForCausalLM": ("llama", "LlamaForCausalLM"), "BertModel": ("bert", "B")}
_VISION = {"LlavaForConditionalGeneration": ("llava", "L")}
_VLLM_MODELS = {**_TEXT, **_VISION}
_PREVIOUSLY_SUPPORTED_MODELS = {"MptForCausalLM": "0.28.0"}
_OOT_SUPPORTED_MODELS = {"BartModel": "https://example.org/plugin"}
"""
REAL = "from vllm import ModelRegistry; print(*ModelRegistry.get_supported_archs())"


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vLLM that knows little, and no plugin."""
    small = parse_registry(SOURCE)
    monkeypatch.setattr(architectures, "installed_registry", lambda: small)
    monkeypatch.setattr(architectures, "entry_points", lambda group: [])
    lacking = {"vllm.model_executor.models.llava": "torchvision"}
    monkeypatch.setattr(architectures, "missing_package", lacking.get)


def model(*names: str, ships_code: bool = False) -> Description:
    return Description("m", ModelConfig(architectures=names, ships_code=ships_code))


def settings(**environ: str) -> Settings:
    return Settings.load(environ)


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    "name",
    [
        "LlamaForCausalLM",
        "BertModel",
        # Made by vLLM from LlamaForCausalLM.
        "LlamaForSequenceClassification",
        "LlamaModel",
    ],
)
def test_what_the_registry_knows_is_supported(name: str) -> None:
    finding = check_architecture(model(name), settings())
    assert finding is not None
    assert (finding.result, name in finding.text) == (Result.OK, True)


@pytest.mark.usefixtures("registry")
def test_one_known_name_is_enough() -> None:
    finding = check_architecture(model("FooBarForCausalLM", "LlamaForCausalLM"), settings())
    assert finding is not None
    assert finding.result is Result.OK


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("name", "says", "remedy"),
    [
        ("FooBarForCausalLM", "no implementation of FooBarForCausalLM", "newer image"),
        ("MptForCausalLM", "up to version 0.28.0", "vLLM 0.28.0"),
        ("BartModel", "only with the plugin at https://example.org/plugin", "Install it"),
    ],
)
def test_what_cannot_run_fails_before_a_byte_is_fetched(
    monkeypatch: pytest.MonkeyPatch, name: str, says: str, remedy: str
) -> None:
    monkeypatch.setattr(architectures, "_is_in_transformers", lambda _: False)
    with pytest.raises(EngineFailure, match=says) as failed:
        check_architecture(model(name), settings())
    assert failed.value.cause is Cause.UNSUPPORTED_MODEL
    assert failed.value.permanent
    assert remedy in failed.value.remedy


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize("variable", ["MODEL_IMPL", "CONFIG_FORMAT"])
def test_a_flag_that_says_what_vllm_does_anyway_casts_no_doubt(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setattr(architectures, "_is_in_transformers", lambda _: False)
    with pytest.raises(EngineFailure, match="no implementation of FooBarForCausalLM"):
        check_architecture(model("FooBarForCausalLM"), settings(**{variable: "auto"}))


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(
    ("description", "environ"),
    [
        (model("FooBarForCausalLM", ships_code=True), {}),
        (model("FooBarForCausalLM"), {"HF_OVERRIDES": "{}"}),
        (model("FooBarForCausalLM"), {"MODEL_IMPL": "transformers"}),
        (model("FooBarForCausalLM"), {"VLLM_EXTRA_ARGS": "--hf-overrides '{}'"}),
        # In Transformers, which vLLM can use; not in the registry above.
        (model("MistralForCausalLM"), {}),
    ],
)
def test_in_doubt_a_start_is_only_warned_about(
    description: Description, environ: dict[str, str]
) -> None:
    finding = check_architecture(description, settings(**environ))
    assert finding is not None
    assert finding.result is Result.WARN


@pytest.mark.usefixtures("registry")
@pytest.mark.parametrize(("module", "doubted"), [("other.plugin:add", True), ("vllm.x:y", False)])
def test_a_plugin_that_is_not_vllms_own_may_add_models(
    monkeypatch: pytest.MonkeyPatch, module: str, doubted: bool
) -> None:
    monkeypatch.setattr(architectures, "_is_in_transformers", lambda _: False)
    plugin = EntryPoint("p", module, "vllm.general_plugins")
    monkeypatch.setattr(architectures, "entry_points", lambda group: [plugin])
    if doubted:
        finding = check_architecture(model("FooBarForCausalLM"), settings())
        assert finding is not None
        assert "plugin" in finding.text
    else:
        with pytest.raises(EngineFailure):
            check_architecture(model("FooBarForCausalLM"), settings())


@pytest.mark.usefixtures("registry")
def test_a_package_that_vllms_code_of_the_model_lacks_is_named_before_a_byte_is_fetched() -> None:
    with pytest.raises(EngineFailure, match="needs the Python package torchvision") as failed:
        check_architecture(model("LlavaForConditionalGeneration"), settings())
    assert failed.value.cause is Cause.MISSING_PACKAGE
    assert failed.value.permanent
    assert "install-engine.sh" in failed.value.remedy
    overridden = settings(MODEL_IMPL="transformers")
    finding = check_architecture(model("LlavaForConditionalGeneration"), overridden)
    assert finding is not None
    assert finding.result is Result.WARN


@pytest.mark.parametrize("unknown", [Description("m"), model()])
def test_what_names_no_architecture_is_not_judged(unknown: Description) -> None:
    assert check_architecture(unknown, settings()) is None


def test_without_vllm_nothing_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(architectures, "package_folder", lambda _: None)
    installed_registry.cache_clear()
    assert installed_registry() is None
    assert check_architecture(model("FooBarForCausalLM"), settings()) is None
    installed_registry.cache_clear()


@pytest.mark.parametrize(
    "source",
    [
        *(b"", b"_VLLM_MODELS = {}", b"_VLLM_MODELS = load()", b"{"),
        b"_VLLM_MODELS = {**_ELSEWHERE}",
        b"_A = {'A': 1}\n_VLLM_MODELS = {**_A, **load()}",
        b"_A = {'A': 1}\n_VLLM_MODELS = {**_A, 'B': 1}",
    ],
)
def test_a_registry_of_another_form_is_not_guessed_at(source: bytes) -> None:
    with pytest.raises((ValueError, SyntaxError)):
        parse_registry(source)


@pytest.mark.engine
def test_the_names_that_are_read_are_those_that_vllm_itself_tells() -> None:
    output = subprocess.run(
        [sys.executable, "-c", REAL], capture_output=True, text=True, timeout=120, check=True
    )
    read = installed_registry()
    assert read is not None
    assert read.supported.keys() == set(output.stdout.splitlines()[-1].split())
    assert read.removed
    assert read.plugins


@needs("vllm")
def test_vllm_and_torch_are_not_imported_for_it() -> None:
    code = (
        "import sys; from proxy.vllm.architectures import installed_registry as r;"
        "assert r().module_of('LlamaForCausalLM') == 'llama';"
        "sys.exit(bool({'vllm', 'torch', 'transformers'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
