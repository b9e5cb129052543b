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
# What is called so may be a secret; not what counts tokens, or is a number of one.
_WORDS = r"token(?!s|iz|[_-](?:budget|id|threshold|type))|secret|passw(?:or)?d|credential"
_WORDS += "|authorization|signature"
_SECRET_NAME = re.compile(rf"key(?!_value|word)|{_WORDS}", re.IGNORECASE)
_NAME = rf"(?=[\w.-]*?(?:{_SECRET_NAME.pattern}))[\w.-]++"
# In a sentence it is the last of the name, and a key may be one of a dictionary.
_NAME_IN_TEXT = (
    rf"(?<![\w.-])(?!-)(?=[\w.-]*?(?:(?:api|access)[_-]?key|{_WORDS})(?![\w.-]))[\w.-]++"
)
_ENCLOSED = r"""b?(?P<quote>\\*["']).*?(?<!\\)(?P=quote)|\[[^]]*\]|\{[^}]*\}"""
_SECRETS = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL | re.ASCII), replacement)
    for pattern, replacement in (
        # Who asks, in front of a URL's host.
        (r'(://)[^/?#\s"]+@', r"\1***@"),
        # Tokens of Hugging Face and keys of OpenAI's kind; words such as hf_overrides are none.
        # Behind a slash it is rather a name: then only what is as long as a token.
        (r"(?-i:(?<![\w/.-])(hf_)(?![a-z]{1,16}\b))[a-z\d]{8,}+(?!_)", r"\1***"),
        (r"(?-i:(?<=/)(hf_))[a-z\d]{30,}", r"\1***"),
        (r"(?-i:(?<![\w/.-])(sk-))[\w-]{6,}", r"\1***"),
        (r"""(\bbearer\s+)[^\s"'\\,]+""", r"\1***"),
        # OpenTelemetry repeats what it cannot use of OTEL_EXPORTER_OTLP_HEADERS.
        (r"(header (?:format|value)[^:]*:).*", r"\1 ***"),
        # A field of JSON, or as Python writes it; a flag; a part of a URL's query.
        (rf"""((["']){_NAME}\\*\2\s*:\s*)(?:{_ENCLOSED})""", r"\1\g<quote>***\g<quote>"),
        (rf"""((?<![\w.-])--{_NAME}(?:=|\s+(?!-)))(?:{_ENCLOSED}|[^\s"']+)""", r"\1***"),
        (rf"""([?&]{_NAME}=)[^&#\s"'\\]+""", r"\1***"),
        (
            rf"({_NAME_IN_TEXT}\s?[=:]\s?(?:bearer\s+|basic\s+)?)"
            rf"""(?:{_ENCLOSED}|(?!\d+\b)[^\s,;&)}}\]"'\\]+)""",
            r"\1***",
        ),
    )
)
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
    return _SECRET_NAME.search(name) is not None


def without_secrets(text: str) -> str:
    """A text as it may be shown: a value, words, or what others print. Whatever is shown of a
    secret's kind goes through here."""
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text
