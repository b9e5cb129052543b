"""What huggingface_hub raised -> cause, sentence, remedy.

hub 1.x uses httpx and 2.x httpx2, and both let their errors through unwrapped here and there:
those are recognized by the names of their classes, so that neither library is imported. hub's own
errors are recognized by type.
"""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.errors import Cause, EngineFailure

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_INVALID_TOKEN = "Invalid credentials in Authorization header"  # nosec B105
_BYTES_PER_GB = 1e9
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOT_WRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR})
# xet is written in Rust and reports an errno only in words.
_OS_ERROR = re.compile(r"\(os error (\d+)\)")
_RESET_SECONDS = re.compile(r"\bt=(\d+)")
_NAME_RESOLUTION = ("Name or service not known", "name resolution", "No address associated")


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked of which hub, with what."""

    repo: str
    revision: str
    endpoint: str
    cache: Path
    has_token: bool


def explain(error: BaseException, asked: Asked) -> EngineFailure:
    """The first error in the chain that says something; hub wraps the telling one in others."""
    link: BaseException | None = error
    seen: list[BaseException] = []
    while link is not None and link not in seen:
        failure = _explain_one(link, asked)
        if failure is not None:
            return failure
        seen.append(link)
        link = link.__cause__ or link.__context__
    return _failure(
        Cause.UNKNOWN,
        f"the download of {asked.repo} failed: {type(error).__name__}: {_first_line(error)}",
        permanent=False,
    )


def no_room(
    asked: Asked, needed_bytes: int, free_bytes: int, *, permanent: bool = True
) -> EngineFailure:
    needed, free = needed_bytes / _BYTES_PER_GB, free_bytes / _BYTES_PER_GB
    return _failure(
        Cause.DISK_FULL,
        f"{asked.repo} needs {needed:.1f} GB more on the disk, and {free:.1f} GB are free"
        f" at {asked.cache}",
        "give that volume more space, or set HF_HOME to a folder on a larger one",
        permanent=permanent,
    )


def not_writable(asked: Asked, problem: str) -> EngineFailure:
    return _failure(
        Cause.CACHE_NOT_WRITABLE,
        f"the cache at {asked.cache} cannot be written: {problem}",
        "set HF_HOME to a folder that this user can write to",
    )


def not_cached(asked: Asked, missing: list[str]) -> EngineFailure:
    name = "HF_HUB_OFFLINE"  # huggingface_hub looks at the other one where this is unset
    if name not in os.environ and "TRANSFORMERS_OFFLINE" in os.environ:
        name = "TRANSFORMERS_OFFLINE"
    shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    state = f"lacks {shown}" if missing else "does not hold it"
    return _failure(
        Cause.MODEL_NOT_FOUND,
        f"{name} is set and {asked.repo} (revision {asked.revision}) is not complete on"
        f" this machine: the cache at {asked.cache} {state}",
        f"unset {name} for one start, or set HF_HOME to a cache that holds the model",
    )


def no_files(asked: Asked) -> EngineFailure:
    return _failure(
        Cause.UNSUPPORTED_MODEL,
        f"{asked.repo} holds no file that vLLM could load",
        "set MODEL_NAME to a repository with safetensors weights and a config.json",
    )


def unanswered(asked: Asked, seconds: float) -> EngineFailure:
    return _unreachable(
        asked, f"accepts connections but has not said what it holds for {seconds:.0f} s"
    )


def stalled(asked: Asked, seconds: float) -> EngineFailure:
    return _unreachable(asked, f"has sent nothing of {asked.repo} for {seconds:.0f} s")


def left_out(asked: Asked, missing: list[str]) -> EngineFailure:
    return _unreachable(asked, f"did not deliver {len(missing)} files, {missing[0]} among them")


def no_certificates(asked: Asked, file: str) -> EngineFailure:
    return _failure(
        Cause.HUB_UNREACHABLE,
        f"the hub at {asked.endpoint} cannot be asked: "
        f"SSL_CERT_FILE={file!r} holds no certificates",
        "set SSL_CERT_FILE to a file of certificates that this user may read, or unset it",
    )


def _explain_one(error: BaseException, asked: Asked) -> EngineFailure | None:
    from huggingface_hub.errors import (
        FileMetadataError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
    )

    if isinstance(error, EngineFailure):
        return error
    if isinstance(error, HfHubHTTPError):
        return _of_answer(error, asked)
    if isinstance(error, HFValidationError):
        return _not_found(f"{asked.repo!r} is not the name of a repository: {_first_line(error)}")
    if isinstance(error, OfflineModeIsEnabled):
        return not_cached(asked, [])
    if isinstance(error, FileMetadataError) or _is_a(error, "JSONDecodeError"):
        return _unreachable(asked, "does not answer as a Hugging Face hub does")
    file = os.environ.get("SSL_CERT_FILE")
    is_unnamed = isinstance(error, FileNotFoundError | PermissionError) and error.filename is None
    if file and (is_unnamed or _is_a(error, "SSLError")):  # ssl does not say which file
        return no_certificates(asked, file)
    words = _OS_ERROR.search(str(error))
    number = error.errno if isinstance(error, OSError) else int(words[1]) if words else None
    if number in _NO_SPACE:
        return _failure(
            Cause.DISK_FULL,
            f"the disk at {asked.cache} is full, and {asked.repo} is not complete",
            "give that volume more space, or set HF_HOME to a folder on a larger one",
        )
    if number in _NOT_WRITABLE:
        return not_writable(asked, _first_line(error))
    return _of_network(error, asked)


def _of_answer(error: HfHubHTTPError, asked: Asked) -> EngineFailure:
    from huggingface_hub.errors import DisabledRepoError, GatedRepoError, RevisionNotFoundError

    repo, page = asked.repo, f"{asked.endpoint}/{asked.repo}"
    status, headers = error.response.status_code, error.response.headers
    if isinstance(error, GatedRepoError):
        if asked.has_token:
            return _failure(
                Cause.MODEL_GATED,
                f"{repo} is gated, and the account of HF_TOKEN has not been given access",
                f"ask for access at {page}, or set HF_TOKEN to a token of an account that has it",
            )
        return _failure(
            Cause.MODEL_GATED,
            f"{repo} is gated, and there is no HF_TOKEN",
            f"accept the conditions at {page} and set HF_TOKEN",
        )
    if isinstance(error, DisabledRepoError):
        return _not_found(f"{repo} has been disabled on the hub")
    if isinstance(error, RevisionNotFoundError):
        return _not_found(
            f"{repo} has no revision {asked.revision!r}",
            "set MODEL_REVISION to a branch, tag or commit of it, or leave it empty",
        )
    if status == 401 and (asked.has_token or headers.get("X-Error-Message") == _INVALID_TOKEN):
        return _failure(
            Cause.TOKEN_INVALID,
            f"the hub does not accept HF_TOKEN (asked for {repo}): invalid or expired",
            "set HF_TOKEN to a valid token, or unset it for a public model",
        )
    if status == 401:
        return _not_found(
            f"{repo} does not exist at {asked.endpoint}, or is private and there is no HF_TOKEN",
            "check MODEL_NAME; set HF_TOKEN if the model is private",
        )
    if status == 403:
        reason = f": {error.server_message}" if error.server_message else ""
        return _failure(
            Cause.MODEL_GATED,
            f"the hub refuses access to {repo} (HTTP 403){reason}",
            "set HF_TOKEN to a token that may read this repository",
        )
    if status == 404:
        return _not_found(f"{repo} does not exist at {asked.endpoint}")
    if status == 429:
        reset = _RESET_SECONDS.search(headers.get("RateLimit", ""))
        seconds = reset[1] if reset else headers.get("Retry-After")
        when = f"; it asks to wait {seconds} s" if seconds else ""
        return _failure(
            Cause.HUB_RATE_LIMITED,
            f"the hub has had too many requests from this address or account (HTTP 429){when}",
            "" if asked.has_token else "wait, or set HF_TOKEN: accounts have a higher limit",
            permanent=False,
        )
    return _unreachable(asked, f"answers with an error of its own (HTTP {status})")


def _of_network(error: BaseException, asked: Asked) -> EngineFailure | None:
    words = str(error)
    if _is_a(error, "ProxyError"):
        return _unreachable(asked, f"cannot be reached through HTTPS_PROXY: {_first_line(error)}")
    if _is_a(error, "ConnectTimeout", "PoolTimeout"):
        return _unreachable(asked, "cannot be reached: no answer to a connection attempt")
    if _is_a(error, "TimeoutException"):
        return _unreachable(asked, "accepts connections but does not answer")
    if "CERTIFICATE_VERIFY_FAILED" in words:
        return _unreachable(asked, f"shows a certificate that is not trusted: {words}")
    if any(sign in words for sign in _NAME_RESOLUTION):
        return _unreachable(asked, "cannot be reached: its name has no address (DNS)")
    if _is_a(error, "ConnectError"):
        return _unreachable(asked, f"cannot be reached: {_first_line(error)}")
    if _is_a(error, "RemoteProtocolError", "NetworkError"):
        return _unreachable(asked, f"broke the connection off: {_first_line(error)}")
    if _is_a(error, "UnsupportedProtocol", "InvalidURL"):
        return _unreachable(asked, f"has no usable address: {words}", permanent=True)
    if words.startswith("Consistency check failed"):
        return _failure(Cause.CORRUPT_FILE, _first_line(error), permanent=False)
    return None


def _not_found(message: str, remedy: str = "check MODEL_NAME") -> EngineFailure:
    return _failure(Cause.MODEL_NOT_FOUND, message, remedy)


def _unreachable(asked: Asked, what: str, *, permanent: bool = False) -> EngineFailure:
    return _failure(
        Cause.HUB_UNREACHABLE,
        f"the hub at {asked.endpoint} {what}",
        "check the network and HF_ENDPOINT; with the model in the cache, the hub is not needed",
        permanent=permanent,
    )


def _failure(
    cause: Cause, message: str, remedy: str = "", *, permanent: bool = True
) -> EngineFailure:
    return EngineFailure(cause, message, remedy=remedy, permanent=permanent)


def _is_a(error: BaseException, *names: str) -> bool:
    return any(kind.__name__ in names for kind in type(error).__mro__)


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
