"""The model: which, from where."""

from __future__ import annotations

from proxy.settings.values import FolderPath, Group, Names, variable


class ModelSettings(Group):
    """The model: which, from where."""

    model_name: str | None = variable(
        "MODEL_NAME",
        "MODEL_ID",
        "VLLM_MODEL_NAME",
        "SM_VLLM_MODEL",
        "HF_MODEL_ID",
        effect="Hugging Face repository, local path, name of a preset, or `demo`.",
    )
    models_file: str | None = variable(
        "MODELS_FILE", effect="A TOML file with presets of your own."
    )
    model_revision: str | None = variable(
        "MODEL_REVISION", "SM_VLLM_REVISION", effect="Branch, tag or commit of the repository."
    )
    served_model_names: Names = variable(
        "SERVED_MODEL_NAME",
        "OPENAI_SERVED_MODEL_NAME_OVERRIDE",
        default=(),
        effect="Names clients may use, comma-separated; the first one stands in answers.",
    )
    hf_token: str | None = variable(
        "HF_TOKEN",
        "HUGGING_FACE_HUB_TOKEN",
        effect="Token for gated and private repositories.",
        secret=True,
    )
    hf_home: FolderPath | None = variable("HF_HOME", effect="Folder of the Hugging Face cache.")
    hf_endpoint: str | None = variable("HF_ENDPOINT", effect="Base URL of the hub.")
    hf_hub_offline: bool = variable(
        "HF_HUB_OFFLINE", default=False, effect="Serve from the cache, never ask the hub."
    )
