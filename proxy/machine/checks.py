"""Checks of the machine that take no time: the engine's executable, its port, the disk."""

from __future__ import annotations

import shutil
import socket
import sys
from contextlib import closing
from pathlib import Path

from proxy.errors import Cause, EngineFailure
from proxy.installation import INSTALL_ENGINE


def check_executable(name: str) -> str:
    """Where the engine's command is: on the PATH, or beside the Python that runs the sidecar."""
    path = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
    if path is None:
        raise EngineFailure(
            Cause.NOT_INSTALLED,
            f"The command `{name}` is neither on the PATH nor beside this Python: vLLM is "
            "not installed here.",
            remedy=f"Install it ({INSTALL_ENGINE}), or set UPSTREAM_URL.",
            permanent=True,
        )
    return path


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
    """Bytes that are free where models are kept. A full disk may hold all that is needed."""
    try:
        return shutil.disk_usage(existing_folder(cache)).free
    except OSError as error:
        raise EngineFailure(
            Cause.CACHE_NOT_WRITABLE,
            f"The model cache {cache} cannot be looked at: {error.strerror}.",
            remedy="Set HF_HOME to a folder that this user can write to.",
            permanent=True,
        ) from None


def existing_folder(path: Path) -> Path:
    """`path`, or the nearest folder above it that is there: where it is going to be."""
    return next(folder for folder in (path, *path.parents) if folder.exists())
