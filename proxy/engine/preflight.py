"""What can be known before minutes are spent: the machine, the port, the model."""

from __future__ import annotations

import re
import shutil
import socket
import sys
from contextlib import closing
from enum import StrEnum
from pathlib import Path

from proxy.engine.architectures import check_architecture
from proxy.engine.finding import Finding
from proxy.engine.hardware import Hardware
from proxy.engine.memory import check_memory
from proxy.engine.model.demo import DEMO_MODEL_NAME
from proxy.engine.model.description import Description
from proxy.engine.model.folder import at_home, is_folder
from proxy.engine.model.hub_cache import missing_beside_others
from proxy.errors import Cause, EngineFailure
from proxy.settings import Settings

_REPOSITORY = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
# Below this nothing can be fetched or cached at all; a download checks what it needs.
_MIN_FREE_BYTES = 64 * 1024 * 1024


# The page of a model on the hub; what follows its name leads to a file or a revision.
_PAGE = re.compile(
    r"(?:hf://|(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co)/)"
    r"(?P<name>(?!datasets/|spaces/)[\w][\w.-]*/[\w][\w.-]*)(?:/(?:tree|blob|resolve)/(?P<revision>[^/?#]+))?"
    r"[^?#]*(?:[?#].*)?"
)


def repository_of(model_name: str, revision: str | None) -> str:
    """The repository whose page on the hub `model_name` is; any other name as it is.

    Raises EngineFailure where the page is of another revision than the one that is asked for.
    """
    if (page := _PAGE.fullmatch(model_name)) is None:
        return model_name
    if page["revision"] not in (None, "main", revision):
        raise EngineFailure(
            Cause.MODEL_NOT_FOUND,
            f"MODEL_NAME={model_name!r} is the page of a revision.",
            remedy=f"Set MODEL_NAME={page['name']} and MODEL_REVISION={page['revision']}.",
            permanent=True,
        )
    return page["name"]


class ModelKind(StrEnum):
    """Where a model's files come from."""

    DEMO = "demo"
    LOCAL = "local"
    HUB = "hub"
    OTHER = "other"
    """An object store or a single quantized file of a repository: vLLM fetches it itself."""


def kind_of(model_name: str) -> ModelKind:
    """Raises EngineFailure where the name cannot be any of the kinds."""
    if model_name == DEMO_MODEL_NAME:
        return ModelKind.DEMO
    if model_name.startswith(("/", "./", "../", "~")) or is_folder(model_name):
        return ModelKind.LOCAL
    if model_name.startswith(("http://", "https://", "hf://")):
        raise EngineFailure(
            Cause.MODEL_NOT_FOUND,
            f"MODEL_NAME={model_name!r} is an address, and no page of a model on huggingface.co.",
            remedy="Set MODEL_NAME to organisation/name, and HF_ENDPOINT to a hub of your own.",
            permanent=True,
        )
    if "://" in model_name or ":" in model_name:
        return ModelKind.OTHER
    if _REPOSITORY.fullmatch(model_name):
        return ModelKind.HUB
    raise EngineFailure(
        Cause.MODEL_NOT_FOUND,
        f"MODEL_NAME={model_name!r} is neither a repository (organisation/name) nor a folder.",
        remedy="Set MODEL_NAME to a Hugging Face repository or to an existing path.",
        permanent=True,
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
        if not _loads_otherwise(settings) and (missing := missing_beside_others(path)):
            raise _half_a_model(path, missing)
    except OSError as error:
        raise _hidden_model(path, error) from None
    return path


def _loads_otherwise(settings: Settings) -> bool:
    return "LOAD_FORMAT" in settings.environ or "--load-format" in settings.extra_args


def _half_a_model(path: Path, missing: list[str]) -> EngineFailure:
    more = f" and {len(missing) - 1} more are" if len(missing) > 1 else " is"
    return EngineFailure(
        Cause.CORRUPT_FILE,
        f"The model in {path} is not complete: {missing[0]}{more} missing.",
        remedy="Copy or fetch all of it.",
        permanent=True,
    )


def _no_model(message: str, remedy: str) -> EngineFailure:
    return EngineFailure(Cause.MODEL_NOT_FOUND, message, remedy=remedy, permanent=True)


def _hidden_model(path: Path, error: OSError) -> EngineFailure:
    return _no_model(
        f"The model folder {path} cannot be looked at: {error.strerror}.",
        "Set MODEL_NAME to a folder that this user may read, or run as a user who may.",
    )


def check_executable(name: str) -> str:
    """Where the engine's command is: on the PATH, or beside the Python that runs the sidecar."""
    found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if found is None:
        raise EngineFailure(
            Cause.NOT_INSTALLED,
            f"The command `{name}` is neither on the PATH nor beside this Python: vLLM is "
            "not installed here.",
            remedy="Install it (scripts/install-engine.sh), or set UPSTREAM_URL.",
            permanent=True,
        )
    return found


def check_port(port: int) -> None:
    """The engine's port must be free: a foreign server there would pass for the engine."""
    with closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise EngineFailure(
                Cause.PORT_IN_USE,
                f"Port {port} on 127.0.0.1 cannot be used for the engine: {error.strerror}.",
                remedy="Set UPSTREAM_PORT to a free port.",
                permanent=False,
            ) from None


def check_disk(cache: Path) -> int:
    """Bytes that are free where models are kept; there must be some."""
    try:
        existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise _hidden_cache(cache, error) from None
    if free < _MIN_FREE_BYTES:
        raise EngineFailure(
            Cause.DISK_FULL,
            f"The disk under {existing} is full: {free / 1024**2:.0f} MiB are free.",
            remedy="Free some space, or set HF_HOME to a folder on a larger volume.",
            permanent=False,
        )
    return free


def _hidden_cache(cache: Path, error: OSError) -> EngineFailure:
    return EngineFailure(
        Cause.CACHE_NOT_WRITABLE,
        f"The model cache {cache} cannot be looked at: {error.strerror}.",
        remedy="Set HF_HOME to a folder that this user can write to.",
        permanent=True,
    )


def inspect(model: Description, settings: Settings, hardware: Hardware) -> list[Finding]:
    """What can be said of a model before its weights are here.

    Raises:
        EngineFailure: vLLM certainly cannot run it.
    """
    found = (check_architecture(model, settings), check_memory(model, settings, hardware))
    return [finding for finding in found if finding is not None]
