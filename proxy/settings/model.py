"""The model: which one, and where it comes from."""

from __future__ import annotations

from typing import Annotated

from proxy.settings.environment import without_secrets
from proxy.settings.values import Group, LocalPath, Names, only, variable

_PUBLIC = "allowed is a name or an address without a password, token or key in it"
_Name = Annotated[str, only(lambda name: without_secrets(name) == name, _PUBLIC)]


class ModelSettings(Group, title="Model"):
    """Which model is served, and where it comes from."""

    # It is shown in many places, and what vLLM fetches from takes no password.
    model_name: _Name | None = variable(
        "MODEL_NAME",
        "MODEL_ID",
        "VLLM_MODEL_NAME",
        "SM_VLLM_MODEL",
        "HF_MODEL_ID",
        effect="Hugging Face repository, local path, name of a preset, `demo` or `demo-text`; or "
        "several of them, comma-separated, of which `*` is every preset of your own. The first one "
        "answers requests that name no model. "
        "[Models](models.md) lists the presets and says how several share a machine.",
        unset="`Qwen/Qwen2-VL-7B-Instruct` with a GPU, `demo` without one",
        example="qwen2-vl-7b",
    )
    models_file: LocalPath | None = variable(
        "MODELS_FILE",
        unit="path",
        effect="TOML file with presets of your own. Its names go before the shipped ones. "
        "`POST /models/reload` reads it [again](models.md#a-file-that-changes).",
        unset="only the shipped presets",
        example="/workspace/models.toml",
    )
    models_inline: str | None = variable(
        "MODELS_INLINE",
        unit="text",
        effect="The text of such a file, as TOML or JSON, for platforms that have only variables. "
        "Its names go before those of `MODELS_FILE`.",
        unset="none",
        example='\'{"mine": {"repository": "org/name"}}\'',
    )
    model_revision: str | None = variable(
        "MODEL_REVISION",
        "SM_VLLM_REVISION",
        effect="Branch, tag or commit of the repository.",
        unset="the repository's default branch",
        example="main",
    )
    served_model_names: Names = variable(
        "SERVED_MODEL_NAME",
        "OPENAI_SERVED_MODEL_NAME_OVERRIDE",
        default=(),
        effect="Names that clients may use, comma-separated. Answers carry the first one.",
        unset="`MODEL_NAME`",
        example="vision,gpt-4o",
    )
    # What is copied from a page may hold more than is seen; a header takes none of it.
    hf_token: Annotated[str, only(str.isascii, "allowed are ASCII characters")] | None = variable(
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        effect="Token for gated and private repositories. "
        "It is never in the engine's arguments or in a log.",
        unset="public repositories only",
        example="hf_...",
        secret=True,
    )
    hf_home: LocalPath | None = variable(
        "HF_HOME",
        unit="path",
        effect="Folder of the Hugging Face cache. Put it on a volume that survives the container.",
        unset="`~/.cache/huggingface`; the image sets `/workspace/huggingface`",
        example="/workspace/huggingface",
    )
    hf_endpoint: str | None = variable(
        "HF_ENDPOINT",
        unit="URL",
        effect="Base URL of the hub, for a mirror.",
        unset="`https://huggingface.co`",
        example="https://huggingface.co",
    )
    hf_hub_offline: bool = variable(
        "HF_HUB_OFFLINE",
        default=False,
        effect="Serve from the cache and never ask the hub.",
    )
