"""What the preflight reads of a config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.vllm.description import (
    Description,
    ModelConfig,
    describe_folder,
    parse_config,
    read_config,
)

# As on the hub, without what is not read.
QWEN2_VL_7B: dict[str, Any] = {
    "architectures": ["Qwen2VLForConditionalGeneration"],
    "hidden_size": 3584,
    "max_position_embeddings": 32768,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "sliding_window": 32768,
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
    "vision_config": {"depth": 32, "hidden_size": 3584},
}
LLAVA: dict[str, Any] = {
    "architectures": ["LlavaForConditionalGeneration"],
    "text_config": {
        "hidden_size": 4096,
        "max_position_embeddings": 4096,
        "num_attention_heads": 32,
        "num_hidden_layers": 32,
        "num_key_value_heads": 32,
    },
    "dtype": "float16",
}


def test_a_models_cache_is_counted_from_its_layers_and_heads() -> None:
    found = parse_config(QWEN2_VL_7B)
    assert found == ModelConfig(
        architectures=("Qwen2VLForConditionalGeneration",),
        dtype="bfloat16",
        context_tokens=32768,
        cache_elements=2 * 28 * 4 * 128,
    )


def test_the_language_part_of_a_multimodal_model_is_what_counts() -> None:
    found = parse_config(LLAVA)
    assert (found.dtype, found.context_tokens) == ("float16", 4096)
    assert found.cache_elements == 2 * 32 * 32 * 128


@pytest.mark.parametrize(
    "other",
    [
        {"kv_lora_rank": 512},
        {"sliding_window": 4096},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"layer_types": 28},
        {"num_hidden_layers": None},
        {"num_attention_heads": [4, 8]},
    ],
)
def test_a_cache_of_another_kind_is_not_guessed(other: dict[str, Any]) -> None:
    text = {**QWEN2_VL_7B, "use_sliding_window": True, "sliding_window": None}
    assert parse_config(text).cache_elements is not None
    assert parse_config(text | other).cache_elements is None


def test_models_that_encode_have_no_such_cache() -> None:
    assert parse_config(QWEN2_VL_7B | {"is_encoder_decoder": True}).cache_elements is None


@pytest.mark.parametrize("names", [None, "LlamaForCausalLM", {}, 7])
def test_architectures_that_are_no_list_are_left_out(names: object) -> None:
    assert parse_config({"architectures": names}).architectures == ()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"', '{"a":' * 100_000])
def test_a_config_that_cannot_be_read_is_left_out(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config.json"
    assert read_config(path) is None
    path.write_text(content)
    assert read_config(path) is None


def test_code_and_quantization_are_seen() -> None:
    found = parse_config({"auto_map": {"AutoModel": "x"}, "quantization_config": {"bits": 4}})
    assert found.ships_code
    assert found.quantized


def test_a_folder_is_described_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAVA))
    (tmp_path / "a.safetensors").write_bytes(bytes(70))
    (tmp_path / "b.safetensors").write_bytes(bytes(30))
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(500))
    assert describe_folder("mine", tmp_path) == Description("mine", parse_config(LLAVA), 100)


def test_a_folder_that_is_none_is_not_described(tmp_path: Path) -> None:
    assert describe_folder("gone", tmp_path / "gone") == Description("gone")
