"""Which files of well-known repositories are fetched."""

from __future__ import annotations

import pytest

from proxy.vllm.files import choose_files, weight_files

REPOSITORY_PAGE = [".gitattributes", "LICENSE", "README.md", "assets/demo.png"]

QWEN2_VL = """
    chat_template.json config.json generation_config.json merges.txt
    model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json
    preprocessor_config.json tokenizer.json tokenizer_config.json vocab.json
"""
LLAVA = """
    added_tokens.json chat_template.jinja config.json model-00001-of-00003.safetensors
    model-00002-of-00003.safetensors model-00003-of-00003.safetensors model.safetensors.index.json
    preprocessor_config.json processor_config.json special_tokens_map.json tokenizer.json
    tokenizer.model tokenizer_config.json
"""
PHI_VISION = """
    config.json configuration_phi3_v.py model-00001-of-00002.safetensors
    model-00002-of-00002.safetensors model.safetensors.index.json modeling_phi3_v.py
    preprocessor_config.json processing_phi3_v.py processor_config.json tokenizer.json
    tokenizer_config.json
"""
MISTRAL = ["config.json", "params.json", "tekken.json", "tokenizer.model.v3"]
BIN = ["config.json", "pytorch_model.bin", "tokenizer.model"]

CASES: dict[str, tuple[list[str], list[str]]] = {
    "Qwen/Qwen2-VL-7B-Instruct": (QWEN2_VL.split(), REPOSITORY_PAGE),
    "llava-hf/llava-1.5-7b-hf": (LLAVA.split(), REPOSITORY_PAGE),
    "microsoft/Phi-3.5-vision-instruct": (PHI_VISION.split(), [*REPOSITORY_PAGE, "SECURITY.md"]),
    "mistral, both formats": (
        [*MISTRAL, "consolidated.safetensors"],
        ["model-00001-of-00001.safetensors"],
    ),
    "mistral, its own format only": ([*MISTRAL, "consolidated-00001-of-00002.safetensors"], []),
    "consolidated without params.json": (
        ["config.json", "model.safetensors"],
        ["consolidated.safetensors"],
    ),
    "only bin": (BIN, ["training_args.bin", "optimizer.pt", "tf_model.h5", "rust_model.ot"]),
    "only pt": (["config.json", "model.pt"], ["scheduler.pt", "model.pth"]),
    "bin beside safetensors": (
        ["config.json", "model.safetensors"],
        ["pytorch_model.bin", "flax_model.msgpack", "model.gguf"],
    ),
    "meta-llama": (
        ["config.json", "model.safetensors", "tokenizer.json"],
        ["original/consolidated.00.pth", "original/params.json", "original/tokenizer.model"],
    ),
    "gpt-oss": (
        ["chat_template.jinja", "config.json", "model.safetensors"],
        ["original/model.safetensors", "original/config.json", "metal/model.bin"],
    ),
    "sentence-transformers": (
        [
            "modules.json",
            "pytorch_model.bin",
            "vocab.txt",
            "1_Pooling/config.json",
            "2_Dense/model.safetensors",
        ],
        ["2_Dense/pytorch_model.bin", "onnx/model.onnx", "openvino/openvino_model.bin"],
    ),
    "trainer checkpoints": (
        ["config.json", "model.safetensors"],
        ["checkpoint-500/model.safetensors", "checkpoint-500/config.json"],
    ),
    "tiktoken and sentencepiece": (["qwen.tiktoken", "source.spm", "tokenizer.model"], []),
    "nothing": ([], ["README.md"]),
}


@pytest.mark.parametrize(("wanted", "unwanted"), CASES.values(), ids=CASES)
def test_fetched_is_what_vllm_reads(wanted: list[str], unwanted: list[str]) -> None:
    names = sorted([*wanted, *unwanted])
    assert choose_files(names) == sorted(wanted)


def test_weights_are_kept_apart_from_the_rest() -> None:
    assert weight_files([*BIN, "training_args.bin"]) == {"pytorch_model.bin"}
    assert weight_files(["config.json", "model.gguf"]) == frozenset()
