"""An environment as a platform hands it over -> one whose values are what was meant.

Four things come between a value and its reader: quotes that `docker run --env-file` and
`kubectl create configmap --from-env-file` leave around it, blanks and line ends, addresses that
Kubernetes writes into variables by itself, and bytes that are no text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches

from proxy.errors import SettingsError

# What Kubernetes sets for each Service of the namespace: METRICS_PORT=tcp://10.43.1.39:9100 for one
# that is called "metrics" (kubernetes.io/docs/concepts/services-networking/service).
_SERVICE_LINK = re.compile(r"(tcp|udp|sctp)://\S+:\d+")
_NOT_TEXT = re.compile(r"[\0\ud800-\udfff]")
_USER_OF_URL = re.compile(r"(?<=://)[^/?#@\s]+@")
_JSON_FIELD = re.compile(r'("([^"\\]*)"\s*:\s*)"(?:[^"\\]|\\.)*"')
_SECRETS = ("key", "token", "secret", "password", "credential", "authorization")
# Read by the sidecar, or by what it starts, and shown in logs and answers.
_PREFIXES = ("HF_", "HUGGING_FACE_", "OTEL_", "SM_VLLM_", "VLLM_")


def without_quotes(text: str) -> str:
    """`"a b"` -> `a b`; one pair only, single or double, that surrounds the whole.

    `"a" "b"` stays: the first quote ends before the end. JSON and Jinja inside may hold the same
    quotes, escaped or not.
    """
    core = text.strip()
    quote, inner = core[:1], core[1:-1]
    if len(core) < 2 or quote not in ("'", '"') or core[-1] != quote:
        return text
    escaped = f"\\{quote}"
    if quote not in inner.replace(escaped, ""):
        return inner.replace(escaped, quote)
    content = inner.strip()
    if re.fullmatch(r"\{[{%#].*[}%#]\}", content, re.DOTALL):
        return inner
    try:
        return inner if isinstance(json.loads(content), dict | list) else text
    except (ValueError, RecursionError):
        return text


def is_service_link(name: str, text: str) -> bool:
    """Whether Kubernetes wrote this value, for a Service whose name makes this variable's."""
    return name.endswith("_PORT") and _SERVICE_LINK.fullmatch(text) is not None


def service_link_warning(name: str, text: str) -> str:
    """What it is, and what to do about it."""
    service = name.removesuffix("_PORT").lower().replace("_", "-")
    return (
        f"{name}={text} was set by Kubernetes for the Service {service!r} and is ignored; "
        "set enableServiceLinks: false in the pod's spec, or rename the Service"
    )


def read_environment(
    environ: Mapping[str, str], ours: Collection[str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """What is set, and warnings about what was changed; `ours` are the names that settings read.

    Raises:
        SettingsError: a variable of ours holds bytes that are no text.
    """
    present, quoted = {}, []
    for name, text in environ.items():
        value = without_quotes(text)
        if value != text:
            quoted.append(name)
        # The line end of a secret from a file is invisible in a message, and a token that ends with
        # one is not found where it has to be masked. A template is more than its words.
        is_template = name.endswith("CHAT_TEMPLATE") and "{" in value
        if stripped := value.strip():
            present[name] = value if is_template else stripped
    warnings = []
    for name, text in list(present.items()):
        if name not in ours and not name.startswith(_PREFIXES):
            continue
        check_text(name, text)
        if is_service_link(name, text) and name != "VLLM_PORT":  # which is kept from vLLM anyway
            warnings.append(service_link_warning(name, text))
            del present[name]
    if quoted:
        names = ", ".join(sorted(quoted))
        warnings.append(f"quotes around the value were taken off: {names}; write it without them")
    return present, tuple(warnings)


def check_text(name: str, text: str) -> None:
    """Raises SettingsError where a value is not UTF-8; a secret is not repeated."""
    if _NOT_TEXT.search(text):
        raise SettingsError(f"{name}: its value is not UTF-8 text; allowed is text without NUL")


def shown(value: object, max_chars: int = 400) -> str:
    """A value as a message repeats it: quoted, on one line, no longer than a line is read, and
    without the secrets in it."""
    text = without_secrets(repr(value))
    return text if len(text) <= max_chars else f"{text[:max_chars]}… ({len(text)} characters)"


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """` Did you mean NAME?`, to follow a sentence; empty where nothing is near."""
    near = get_close_matches(word, list(allowed), n=1)
    return f" Did you mean {near[0]}?" if near else ""


def names_secret(name: str) -> bool:
    """Whether what is called so may be a secret."""
    name = name.lower()
    return any(part in name for part in _SECRETS) and not ("tokens" in name or "tokenizer" in name)


def without_secrets(text: str) -> str:
    """A value as it may be shown: without who asks in a URL, and without what fields of JSON hold
    that are called like a secret."""

    def hidden(field: re.Match[str]) -> str:
        return f'{field[1]}"***"' if names_secret(field[2]) else field[0]

    return _JSON_FIELD.sub(hidden, _USER_OF_URL.sub("***@", text))
