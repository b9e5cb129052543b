"""The numbers in the demo model: tensors of the right names and shapes, drawn at random."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from tokenizers import Tokenizer

    Tensors = dict[str, np.ndarray[Any, Any]]

SEED = 20260

HIDDEN, INTERMEDIATE, LAYERS, HEADS, POSITIONS = 128, 256, 2, 2, 4096
VISION_HIDDEN, VISION_INTERMEDIATE, VISION_LAYERS, VISION_HEADS = 64, 128, 2, 2
IMAGE_PIXELS, PATCH_PIXELS, SCALE_FACTOR = 56, 14, 2
PATCHES = (IMAGE_PIXELS // PATCH_PIXELS) ** 2
TOKENS_PER_IMAGE = PATCHES // SCALE_FACTOR**2

LOGIT_SPREAD = 2.0
BIAS_STOP = 2.6
BIAS_UNREADABLE = -16.0
CONSTANT = 4.0
CONSTANT_AFTER_NORM = 2.7
"""What the final norm makes of it, measured; it varies by a tenth with the text."""


def text_shapes(vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the language model's tensors."""
    yield "model.text_model.embed_tokens.weight", (vocabulary, HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.text_model.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            yield f"{prefix}.self_attn.{name}.weight", (HIDDEN, HIDDEN)
        yield f"{prefix}.mlp.gate_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{prefix}.mlp.up_proj.weight", (INTERMEDIATE, HIDDEN)
        yield f"{prefix}.mlp.down_proj.weight", (HIDDEN, INTERMEDIATE)
        yield f"{prefix}.input_layernorm.weight", (HIDDEN,)
        yield f"{prefix}.post_attention_layernorm.weight", (HIDDEN,)
    yield "model.text_model.norm.weight", (HIDDEN,)
    yield "lm_head.weight", (vocabulary, HIDDEN)


def vision_shapes() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of the vision tower's tensors and of the bridge to the text."""
    width, prefix = VISION_HIDDEN, "model.vision_model"
    yield f"{prefix}.embeddings.patch_embedding.weight", (width, 3, PATCH_PIXELS, PATCH_PIXELS)
    yield f"{prefix}.embeddings.patch_embedding.bias", (width,)
    yield f"{prefix}.embeddings.position_embedding.weight", (PATCHES, width)
    for layer in range(VISION_LAYERS):
        block = f"{prefix}.encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield f"{block}.self_attn.{name}.weight", (width, width)
            yield f"{block}.self_attn.{name}.bias", (width,)
        yield f"{block}.mlp.fc1.weight", (VISION_INTERMEDIATE, width)
        yield f"{block}.mlp.fc1.bias", (VISION_INTERMEDIATE,)
        yield f"{block}.mlp.fc2.weight", (width, VISION_INTERMEDIATE)
        yield f"{block}.mlp.fc2.bias", (width,)
        for name in ("layer_norm1", "layer_norm2"):
            yield f"{block}.{name}.weight", (width,)
            yield f"{block}.{name}.bias", (width,)
    yield f"{prefix}.post_layernorm.weight", (width,)
    yield f"{prefix}.post_layernorm.bias", (width,)
    bridge = "model.connector.modality_projection.proj.weight"
    yield bridge, (HIDDEN, width * SCALE_FACTOR**2)


def random_weights(vocabulary: int) -> Tensors:
    """Normal numbers scaled by fan-in, so that a signal neither dies nor explodes."""
    import numpy as np

    random = np.random.default_rng(SEED)
    tensors = {}
    for name, shape in (*text_shapes(vocabulary), *vision_shapes()):
        if name.endswith(".bias"):
            tensor = np.zeros(shape)
        elif len(shape) == 1:
            tensor = np.ones(shape)
        else:
            fan_in = 1 if "embed_tokens" in name else np.prod(shape[1:])
            tensor = random.standard_normal(shape) / np.sqrt(fan_in)
        tensors[name] = tensor.astype(np.float32)
    return tensors


def text_weights(tensors: Tensors) -> Tensors:
    """The language model's tensors alone, by the names that a Llama has for them."""
    prefix = "model.text_model."
    kept = {name: each for name, each in tensors.items() if name == "lm_head.weight"}
    own = {name: each for name, each in tensors.items() if name.startswith(prefix)}
    return {f"model.{name.removeprefix(prefix)}": each for name, each in own.items()} | kept


def token_biases(tokenizer: Tokenizer, stop: int) -> Iterator[float]:
    """What is added to the logit of each token: answers are words, and end at some point."""
    for token in range(tokenizer.get_vocab_size()):
        text = tokenizer.decode([token], skip_special_tokens=True)
        if token == stop:
            yield BIAS_STOP
        elif len(text) > 1 and text.isascii() and text.isprintable():
            yield 0.0
        else:
            yield BIAS_UNREADABLE


def add_token_biases(tensors: Tensors, tokenizer: Tokenizer, stop: int) -> None:
    """Keep hidden dimension 0 constant, so that column 0 of lm_head is a bias per token."""
    tensors["model.text_model.embed_tokens.weight"][:, 0] = CONSTANT
    for name, tensor in tensors.items():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensor[0] = 0.0  # no layer writes to it
        elif "text_model.layers" in name and name.endswith("layernorm.weight"):
            tensor[0] = 0.0  # and none reads it
    head = tensors["lm_head.weight"]
    head *= LOGIT_SPREAD
    head[stop] = 0.0  # the end does not depend on what was said
    head[:, 0] = [bias / CONSTANT_AFTER_NORM for bias in token_biases(tokenizer, stop)]


def as_bfloat16(tensor: np.ndarray[Any, Any]) -> bytes:
    """The upper half of each float32, rounded (numpy has no such type of its own)."""
    import numpy as np

    return ((tensor.view(np.uint32) + 0x8000) >> 16).astype("<u2").tobytes()


def write_safetensors(tensors: Tensors, path: Path) -> None:
    """https://huggingface.co/docs/safetensors: length of the header, header, numbers."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    chunks, offset = [], 0
    for name, tensor in tensors.items():
        chunk = as_bfloat16(tensor)
        span = [offset, offset + len(chunk)]
        header[name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": span}
        chunks.append(chunk)
        offset += len(chunk)
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    path.write_bytes(b"".join([struct.pack("<Q", len(encoded)), encoded, *chunks]))
