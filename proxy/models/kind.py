"""What MODEL_NAME means: the demo model, a folder, a repository, or what vLLM fetches itself."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path

from proxy.errors import Cause, EngineFailure
from proxy.models.demo import BUILT_IN
from proxy.models.folder import at_home, is_folder
from proxy.models.hub_cache import missing_beside_others
from proxy.settings import Settings
from proxy.vllm.flags import is_changed

_NAME = r"[\w][\w.-]*/[\w][\w.-]*"
_QUANT = r":(?:UD-)?(?:I?Q\d\w*|TQ\d\w*|B?F16|F32|MXFP4\w*)"
_REPOSITORY = re.compile(rf"[\w][\w.-]*|{_NAME}")
# vLLM reads these buckets, and repositories of files of one quantization each.
_BUCKET = re.compile(r"(?:s3|gs|az)://[^/\s]+(?:/\S*)?", re.IGNORECASE)
_ONE_QUANT = re.compile(rf"{_NAME}{_QUANT}", re.IGNORECASE)
# The page of a model on the hub; what follows its name leads to a file or a revision.
_PAGE = re.compile(
    r"(?i:hf://|(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/)"
    rf"(?P<name>(?!datasets/|spaces/){_NAME}(?i:{_QUANT})?)"
    r"(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+))?"
    r"(?:/[^?#]*)?(?:[?#].*)?"
)
_ALLOWED = (
    "Set MODEL_NAME to organisation/name on huggingface.co, to a folder, to organisation/name:QUANT"
    " (one GGUF file of a repository), or to an address in s3://, gs:// or az://"
)


def repository_of(model_name: str, revision: str | None) -> str:
    """The repository whose page on the hub `model_name` is; any other name as it is.

    Raises EngineFailure where the page is of another revision than the one that is asked for.
    """
    if (page := _PAGE.fullmatch(model_name)) is None:
        return model_name
    if page["revision"] not in (None, "main", revision):
        raise _no_model(
            f"MODEL_NAME={model_name!r} is the page of a revision.",
            f"Set MODEL_NAME={page['name']} and MODEL_REVISION={page['revision']}.",
        )
    return page["name"]


class ModelKind(StrEnum):
    """Where a model's files come from."""

    DEMO = "demo"
    LOCAL = "local"
    HUB = "hub"
    OTHER = "other"
    """A bucket or a single quantized file of a repository: vLLM fetches it itself."""


def kind_of(model_name: str) -> ModelKind:
    """Raises EngineFailure where the name cannot be any of the kinds."""
    if model_name in BUILT_IN:
        return ModelKind.DEMO
    if model_name.startswith(("/", "./", "../", "~")) or is_folder(model_name):
        return ModelKind.LOCAL
    if _BUCKET.fullmatch(model_name) or _ONE_QUANT.fullmatch(model_name):
        return ModelKind.OTHER
    if _REPOSITORY.fullmatch(model_name):
        return ModelKind.HUB
    if model_name.lower().startswith(("http://", "https://", "hf://")):
        raise _no_model(
            f"MODEL_NAME={model_name!r} is an address, and no page of a model on huggingface.co.",
            f"{_ALLOWED}; HF_ENDPOINT names a hub of your own.",
        )
    raise _no_model(
        f"MODEL_NAME={model_name!r} is neither a repository (organisation/name) nor a folder.",
        f"{_ALLOWED}.",
    )


def check_local_model(model_name: str, settings: Settings) -> Path:
    """A folder that is served as it is must be there, look like a model and be whole."""
    path = at_home(model_name)
    try:
        if path.is_file() and path.suffix == ".gguf":
            return path
        if not path.is_dir():
            raise _no_model(
                f"The model folder {path} does not exist.",
                "Check MODEL_NAME and that the volume is mounted.",
            )
        if not any((path / name).is_file() for name in ("config.json", "params.json")):
            raise _no_model(
                f"The folder {path} holds no model: it has no config.json.",
                "Set MODEL_NAME to the folder that holds config.json and the weights.",
            )
        loads_otherwise = is_changed(settings, "load-format", "auto")
        if not loads_otherwise and (missing := missing_beside_others(path)):
            more = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
            raise EngineFailure(
                Cause.CORRUPT_FILE,
                f"The model in {path} is not complete: {missing[0]}{more} missing.",
                remedy="Copy or fetch all of it.",
                permanent=True,
            )
    except OSError as error:
        raise _no_model(
            f"The model folder {path} cannot be looked at: {error.strerror}.",
            "Set MODEL_NAME to a folder that this user may read, or run as a user who may.",
        ) from None
    return path


def _no_model(message: str, remedy: str) -> EngineFailure:
    return EngineFailure(Cause.MODEL_NOT_FOUND, message, remedy=remedy, permanent=True)
