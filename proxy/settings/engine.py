"""Flags of `vllm serve` that have a default or a check of ours."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from proxy.settings.values import (
    Count,
    CountOrZero,
    Group,
    LocalPath,
    from_text,
    matching,
    read_size,
    variable,
)

_ContextLength = Annotated[
    str,
    matching(
        r"(?i:auto)|-1|\d{1,12}(\.\d{1,9})?[kmgt]|\d{1,12}[KMGT]?",
        "a whole number, one such as 8k, or auto",
    ),
]
_TokensOrZero = Annotated[CountOrZero, from_text(read_size)]


class EngineSettings(Group, title="Engine"):
    """What `vllm serve` gets. [Any other flag](#any-other-flag-of-vllm) has its variable too."""

    max_model_len: _ContextLength | None = variable(
        "MAX_MODEL_LEN",
        unit="tokens",
        effect="Context length: prompt and answer together. "
        "`auto` takes what fits the memory; `8k` and `8192` are taken as vLLM reads them.",
        unset="the model's own",
        example="8192",
    )
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = variable(
        "GPU_MEMORY_UTIL",
        "GPU_MEMORY_UTILIZATION",
        effect="Share of each GPU's memory that the engine may take.",
        unset="0.95 on a GPU, vLLM's default on a CPU; "
        "[with several models](models.md#the-memory-of-all) it may be less",
        danger="What other processes on the GPU hold is not yours: too high a share fails the "
        "start or an early request",
        example="0.95",
    )
    tensor_parallel_size: Count = variable(
        "TENSOR_PARALLEL_SIZE",
        default=1,
        unit="GPUs",
        effect="GPUs that share each layer. Above 1 the vision encoder runs data-parallel.",
    )
    max_num_seqs: Count | None = variable(
        "MAX_NUM_SEQS",
        unit="requests",
        effect="Requests that the engine runs at a time. The others wait in its queue.",
        unset="vLLM's default",
        example="64",
    )
    max_num_batched_tokens: _TokensOrZero | None = variable(
        "MAX_BATCHED_TOKENS",
        "MAX_NUM_BATCHED_TOKENS",
        unit="tokens",
        effect="Tokens that one engine step works on. 0 means unset; `8k` and `8192` are taken as "
        "vLLM reads them.",
        unset="vLLM's default",
        example="8192",
    )
    image_limit: CountOrZero = variable(
        "IMAGE_LIMIT", default=8, unit="images", effect="Images in one prompt. 0 refuses them."
    )
    video_limit: CountOrZero = variable(
        "VIDEO_LIMIT", default=1, unit="videos", effect="Videos in one prompt. 0 refuses them."
    )
    audio_limit: CountOrZero = variable(
        "AUDIO_LIMIT", default=1, unit="clips", effect="Audio clips in one prompt. 0 refuses them."
    )
    dtype: str | None = variable(
        "DTYPE",
        effect="Data type of weights and activations, such as `bfloat16`.",
        unset="what the model's files say",
        example="bfloat16",
    )
    quantization: str | None = variable(
        "QUANTIZATION",
        effect="Quantization method.",
        unset="what the model's files say",
        example="awq_marlin",
    )
    kv_cache_dtype: str | None = variable(
        "KV_CACHE_DTYPE",
        effect="Data type of the KV cache, such as `fp8`.",
        unset="that of the model",
        example="fp8",
    )
    trust_remote_code: bool = variable(
        "TRUST_REMOTE_CODE",
        default=False,
        effect="Run Python code that the repository ships.",
        danger="That code can do whatever the sidecar's user can; pin `MODEL_REVISION` beside it",
    )
    enable_auto_tool_choice: bool = variable(
        "ENABLE_AUTO_TOOL_CHOICE",
        default=False,
        effect="Let the model choose to call tools. It needs `TOOL_CALL_PARSER`.",
    )
    tool_call_parser: str | None = variable(
        "TOOL_CALL_PARSER",
        effect="vLLM's parser of tool calls, such as `hermes`.",
        unset="tool calls stay in the text",
        example="hermes",
    )
    reasoning_parser: str | None = variable(
        "REASONING_PARSER",
        effect="vLLM's parser of reasoning text, such as `qwen3`.",
        unset="reasoning stays in the text",
        example="qwen3",
    )
    chat_template: LocalPath | None = variable(
        "CHAT_TEMPLATE",
        "CUSTOM_CHAT_TEMPLATE",
        unit="path",
        effect="Jinja chat template, as a file or as text.",
        unset="the model's own",
        example="/workspace/template.jinja",
    )
    extra_args: str = variable(
        "VLLM_EXTRA_ARGS",
        default="",
        unit="shell words",
        effect="More arguments for `vllm serve`. They come last, so they win.",
        unset="none",
        example="'--enforce-eager --seed 7'",
    )
