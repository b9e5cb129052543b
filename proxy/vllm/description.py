"""What can be read of a model before its weights are here: its config.json and its sizes. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from proxy.vllm.files import weight_files

# The language model's own part of a multimodal model's config.json.
_TEXT_PARTS = ("text_config", "llm_config", "language_config")
# A config.json with one of these keeps its cache in another way than a key and a value for
# each layer, head and token: latent attention, sliding windows, state spaces, encoders.
_OTHER_CACHES = frozenset(
    {
        "attention_chunk_size",
        "attn_layer_indices",
        "attn_type_list",
        "block_configs",
        "hybrid_override_pattern",
        "kv_lora_rank",
        "layers_block_type",
        "linear_num_key_heads",
        "mamba_d_state",
        "multi_query",
        "sliding_window",
        "ssm_cfg",
        "state_size",
    }
)
_FULL_ATTENTION = "full_attention"


class ModelConfig(msgspec.Struct, frozen=True):
    """What the preflight reads of a config.json; None and () where it does not say.

    `cache_elements` is the number of keys and values that one token leaves in the KV cache,
    over all layers and heads; None where the model is of a kind that this does not hold for.
    `quantized` is True where the files are; `dtype` is theirs, such as `bfloat16`.
    """

    architectures: tuple[str, ...] = ()
    ships_code: bool = False
    quantized: bool = False
    dtype: str | None = None
    context_tokens: int | None = None
    cache_elements: int | None = None


class Description(msgspec.Struct, frozen=True):
    """A model by name; what cannot be read of it is None, and is not judged."""

    name: str
    config: ModelConfig | None = None
    weights_bytes: int | None = None


def read_config(path: Path) -> ModelConfig | None:
    """What a config.json says; None where there is none that could be read."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return parse_config(document) if isinstance(document, dict) else None


def parse_config(document: Mapping[str, Any]) -> ModelConfig:
    """The same of a document that was read; what has an unexpected type is left out."""
    parts = (document.get(name) for name in _TEXT_PARTS)
    text: Mapping[str, Any] = next((part for part in parts if isinstance(part, dict)), document)
    names = document.get("architectures")
    dtypes = (part.get(name) for part in (document, text) for name in ("dtype", "torch_dtype"))
    return ModelConfig(
        architectures=tuple(name for name in names if isinstance(name, str))
        if isinstance(names, list)
        else (),
        ships_code=bool(document.get("auto_map")),
        quantized=bool(document.get("quantization_config") or document.get("compression_config")),
        dtype=next((name for name in dtypes if isinstance(name, str)), None),
        context_tokens=_count(text, "max_position_embeddings"),
        cache_elements=_cache_elements(document, text),
    )


def describe_folder(name: str, folder: Path) -> Description:
    """A model whose files are here, whole or in part."""
    try:
        sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    except OSError:
        sizes = {}
    weights = sum(sizes[weight] for weight in weight_files(list(sizes)))
    return Description(name, read_config(folder / "config.json"), weights or None)


def _cache_elements(document: Mapping[str, Any], text: Mapping[str, Any]) -> int | None:
    """None unless each layer keeps a key and a value of each token."""
    kinds = text.get("layer_types") or ()
    keeps_all = isinstance(kinds, list | tuple) and all(kind == _FULL_ATTENTION for kind in kinds)
    if document.get("is_encoder_decoder") or not keeps_all:
        return None
    # Qwen2's files name a window and say that it is not used.
    ignored = {"sliding_window"} if text.get("use_sliding_window") is False else set()
    if any(text.get(name) for name in _OTHER_CACHES - ignored):
        return None
    layers = _count(text, "num_hidden_layers")
    heads = _count(text, "num_attention_heads")
    hidden = _count(text, "hidden_size")
    if layers is None or heads is None or hidden is None:
        return None
    keys = _count(text, "num_key_value_heads") or heads
    return 2 * layers * keys * (_count(text, "head_dim") or hidden // heads)


def _count(part: Mapping[str, Any], name: str) -> int | None:
    value = part.get(name)
    return value if isinstance(value, int) and value > 0 else None
