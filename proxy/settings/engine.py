"""What `vllm serve` is told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from proxy.settings.values import Count, CountOrZero, Group, variable

_ContextLength = Annotated[str, Field(pattern=r"^(auto|-1|\d{1,12}(\.\d{1,9})?[kKmMgG]?)$")]


class EngineSettings(Group):
    """What `vllm serve` is told."""

    max_model_len: _ContextLength | None = variable(
        "MAX_MODEL_LEN", effect="Context length in tokens; `auto` fits it to the memory."
    )
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = variable(
        "GPU_MEMORY_UTIL",
        "GPU_MEMORY_UTILIZATION",
        effect="Share of each GPU's memory the engine may take (0.95 on a GPU).",
    )
    tensor_parallel_size: Count = variable(
        "TENSOR_PARALLEL_SIZE", default=1, effect="GPUs that share each layer."
    )
    max_num_seqs: Count | None = variable(
        "MAX_NUM_SEQS", effect="Requests the engine runs at a time."
    )
    max_num_batched_tokens: CountOrZero | None = variable(
        "MAX_BATCHED_TOKENS",
        "MAX_NUM_BATCHED_TOKENS",
        effect="Tokens of one engine step; 0 means unset.",
    )
    image_limit: CountOrZero = variable("IMAGE_LIMIT", default=8, effect="Images in one prompt.")
    video_limit: CountOrZero = variable("VIDEO_LIMIT", default=1, effect="Videos in one prompt.")
    audio_limit: CountOrZero = variable(
        "AUDIO_LIMIT", default=1, effect="Audio clips in one prompt."
    )
    dtype: str | None = variable("DTYPE", effect="Type of weights and activations.")
    quantization: str | None = variable("QUANTIZATION", effect="Quantization method.")
    kv_cache_dtype: str | None = variable("KV_CACHE_DTYPE", effect="Type of the KV cache.")
    trust_remote_code: bool = variable(
        "TRUST_REMOTE_CODE", default=False, effect="Run Python code that the repository ships."
    )
    enable_auto_tool_choice: bool = variable(
        "ENABLE_AUTO_TOOL_CHOICE", default=False, effect="Let the model choose to call tools."
    )
    tool_call_parser: str | None = variable("TOOL_CALL_PARSER", effect="Parser of tool calls.")
    reasoning_parser: str | None = variable("REASONING_PARSER", effect="Parser of reasoning text.")
    chat_template: str | None = variable(
        "CHAT_TEMPLATE", "CUSTOM_CHAT_TEMPLATE", effect="Jinja template, as a file or as text."
    )
    extra_args: str = variable(
        "VLLM_EXTRA_ARGS",
        default="",
        effect="More `vllm serve` arguments as shell words; last wins.",
    )
