"""Which architectures the installed vLLM knows, read from its source: nothing is imported.

vLLM's registry is a few dict literals in one file (`model_executor/models/registry.py`).
To import it takes torch and ten seconds; to parse it takes 15 ms, and what is parsed is
what is installed, so that no table can be out of date.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from proxy.errors import Cause, EngineFailure
from proxy.installation import INSTALL_ENGINE
from proxy.preflight.finding import Finding, Result
from proxy.settings import Settings
from proxy.vllm.description import Description, ModelConfig
from proxy.vllm.flags import is_changed
from proxy.vllm.module_imports import missing_package, package_folder

CHECK = "architecture"
_MODELS = "vllm.model_executor.models."
_REGISTRY = Path("model_executor/models/registry.py")
_SUPPORTED = "_VLLM_MODELS"
_REMOVED = "_PREVIOUSLY_SUPPORTED_MODELS"
_PLUGINS = "_OOT_SUPPORTED_MODELS"
_PLUGIN_GROUP = "vllm.general_plugins"
# vLLM takes `XForSequenceClassification`, `XModel`... from the `XForCausalLM` it knows
# (`_SUFFIX_TO_DEFAULTS` in vllm/config/model.py).
_SUFFIXES = (
    "ForCausalLM",
    "ForConditionalGeneration",
    "ChatModel",
    "LMHeadModel",
    "ForTextEncoding",
    "EmbeddingModel",
    "ForSequenceClassification",
    "ForTokenClassification",
    "ForAudioClassification",
    "ForImageClassification",
    "ForVideoClassification",
    "ClassificationModel",
    "ForRewardModeling",
    "RewardModel",
    "Model",
)
# Flags that let vLLM see another architecture than config.json names.
_OVERRIDES = ("hf-overrides", "model-impl", "hf-config-path", "config-format")
_OTHER_MODEL = "Set MODEL_NAME to a model that vLLM supports, or use a newer image."


@dataclass(frozen=True, slots=True)
class Registry:
    """Names of architectures; `supported` has the module with each, `removed` the last vLLM, and
    `plugins` an address."""

    supported: Mapping[str, str]
    removed: Mapping[str, str]
    plugins: Mapping[str, str]

    def module_of(self, architecture: str) -> str | None:
        """Where vLLM has it, by its own name or by that of the model it is made from."""
        names = [architecture]
        suffix = next((end for end in _SUFFIXES if architecture.endswith(end)), None)
        if suffix is not None:
            names += [architecture.removesuffix(suffix) + other for other in _SUFFIXES]
        return next((self.supported[name] for name in names if name in self.supported), None)


@cache
def installed_registry() -> Registry | None:
    """Of the vLLM beside this Python; None where there is none, or none that can be read."""
    package = package_folder("vllm")
    try:
        return parse_registry((package / _REGISTRY).read_bytes()) if package else None
    except (OSError, ValueError, SyntaxError):
        return None


def parse_registry(source: bytes) -> Registry:
    """Raises ValueError or SyntaxError where the source is not what it used to be."""
    tables: dict[str, ast.Dict] = {}  # dict literals at the top of the module, by name
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            tables |= {each.id: node.value for each in targets if isinstance(each, ast.Name)}
    merged = tables.get(_SUPPORTED)
    parts = [part.id for part in merged.values if isinstance(part, ast.Name)] if merged else []
    # A part that is not read would have its models refused.
    if merged is None or len(parts) < len(merged.values) or not tables.keys() >= set(parts):
        raise ValueError("vLLM's registry has another form")
    supported = {name: module for part in parts for name, module in _items(tables[part])}
    if not supported:
        raise ValueError("vLLM's registry names no architecture")
    return Registry(
        supported=supported,
        removed=dict(_items(tables[_REMOVED])) if _REMOVED in tables else {},
        plugins=dict(_items(tables[_PLUGINS])) if _PLUGINS in tables else {},
    )


def check_architecture(model: Description, settings: Settings) -> Finding | None:
    """None where nothing can be judged.

    Raises:
        EngineFailure: this vLLM certainly cannot run the model, or a package is missing that its
            own code of the model needs.
    """
    registry = installed_registry()
    config = model.config
    if registry is None or config is None or not config.architectures:
        return None
    names = ", ".join(config.architectures)
    modules = [module for name in config.architectures if (module := registry.module_of(name))]
    if modules:
        module = modules[0]
        package = missing_package(module if "." in module else _MODELS + module)
        if package is None:
            return Finding(CHECK, Result.OK, f"{names}, which this vLLM implements.")
        text = f"vLLM's code of {names} needs the Python package {package}, which is not installed."
        if _is_overridden(settings):
            return Finding(CHECK, Result.WARN, f"{text} A flag may have it run by other code.")
        remedy = missing_package_remedy(package)
        raise EngineFailure(Cause.MISSING_PACKAGE, text, remedy=remedy, permanent=True)
    if (doubt := _doubt(config, settings)) is not None:
        return Finding(CHECK, Result.WARN, f"This vLLM has no {names} of its own; {doubt}.")
    text, remedy = f"This vLLM has no implementation of {names}.", _OTHER_MODEL
    for name in config.architectures:
        if (last := registry.removed.get(name)) is not None:
            text = f"vLLM ran {name} up to version {last}, and does not any more."
            remedy = f"Use an image with vLLM {last}, or another MODEL_NAME."
            break
        if (address := registry.plugins.get(name)) is not None:
            text = f"vLLM runs {name} only with the plugin at {address}."
            remedy = "Install it into the image, or set another MODEL_NAME."
            break
    raise EngineFailure(Cause.UNSUPPORTED_MODEL, text, remedy=remedy, permanent=True)


def missing_package_remedy(package: str) -> str:
    return (
        f"Install the {package} that fits the installed torch ({INSTALL_ENGINE} does where there is"
        " one), use vLLM's image, or set MODEL_NAME to a model that does without."
    )


def _doubt(config: ModelConfig, settings: Settings) -> str | None:
    """Why vLLM may run what its registry does not know; None where it cannot."""
    if _is_overridden(settings):
        return "a flag changes what config.json says"
    if config.ships_code:
        return "the repository ships code, which needs TRUST_REMOTE_CODE=true and may fit or not"
    if any(map(_is_in_transformers, config.architectures)):
        return "it will try that of Transformers, which may be slower or not fit"
    if any(not plugin.value.startswith("vllm.") for plugin in entry_points(group=_PLUGIN_GROUP)):
        return "an installed plugin may add it"
    return None


def _is_overridden(settings: Settings) -> bool:
    return any(is_changed(settings, flag, "auto") for flag in _OVERRIDES)


def _is_in_transformers(architecture: str) -> bool:
    """Whether a file of Transformers defines it: 500 files, 50 ms; only asked when in doubt."""
    package = package_folder("transformers")
    if package is None:
        return True  # no list of them, so nothing is ruled out
    line = f"class {architecture}(".encode()
    return any(line in file.read_bytes() for file in package.glob("models/*/modeling_*.py"))


def _items(literal: ast.Dict) -> Iterator[tuple[str, str]]:
    """Its keys, and its values where they are text, or begin with one as a tuple."""
    for key, value in zip(literal.keys, literal.values, strict=True):
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            first = value.elts[0] if isinstance(value, ast.Tuple) and value.elts else value
            yield key.value, str(first.value) if isinstance(first, ast.Constant) else ""
