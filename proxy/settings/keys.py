"""API keys as they are written down: `label:key`, or `key` alone. No message repeats a key.

In a file an allowance may follow: `alice:sk-1 rpm=60 tpm=100000`.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from proxy.errors import SettingsError
from proxy.settings.allowance import ALL, NOTHING, Allowance, parse_allowance

# What can stand in a header and is cut by neither a comma nor a blank.
_KEY = re.compile(r"[!-+\--~]{1,512}")
_LABEL = re.compile(r"[\w.@-]{1,64}", re.ASCII)
_LABEL_ALLOWED = f"a label has up to 64 letters, digits and . _ - @, and is not {ALL}"
_KEY_ALLOWED = "a key has up to 512 visible ASCII characters and no comma"
_QUOTES = ("'", '"', "`")
# Shorter ones can be guessed; 16 characters of a random one are 95 bits.
GOOD_KEY_CHARS = 16
_RANDOM_BYTES = 32


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, and the name it has in logs and metrics."""

    label: str
    key: str = field(repr=False)
    allowance: Allowance = NOTHING


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """`label:key,label:key,...`; a key without a label is called by its place, `key-2`.

    Raises:
        ValueError: says which one is wrong, and not what it is.
    """
    entries = [entry.strip() for entry in text.split(",")]
    keys = tuple(_parse(entry, f"number {at}", f"key-{at}") for at, entry in _numbered(entries))
    if not keys:
        raise ValueError("there is no key in it; allowed are label:key and key, comma-separated")
    _check_apart(keys)
    return keys


def parse_key_lines(text: str) -> tuple[ApiKey, ...]:
    """The same, one a line; blank lines and what follows a `#` at the start of a word are nothing.

    Raises:
        ValueError: says which line is wrong, and not what is on it.
    """
    lines = [re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines()]
    keys = []
    for at, line in _numbered(lines):
        entry, *words = re.sub(r"\s*:\s*", ":", line, count=1).split()
        try:
            allowance = parse_allowance(words)
        except ValueError as error:
            raise ValueError(f"line {at}, after the key: {error}") from None
        key = _parse(entry, f"line {at}", f"line-{at}")
        keys.append(replace(key, allowance=allowance))
    _check_apart(keys)
    return tuple(keys)


def _numbered(entries: Iterable[str]) -> list[tuple[int, str]]:
    return [(at, entry) for at, entry in enumerate(entries, start=1) if entry]


def _parse(entry: str, place: str, label: str) -> ApiKey:
    if ":" in entry:
        label, _, entry = entry.partition(":")
        label, entry = label.strip(), entry.strip()
    if not _LABEL.fullmatch(label) or label == ALL:
        raise ValueError(f"{place}: {_LABEL_ALLOWED}")
    is_list = entry[:1] == "[" and entry[-1:] == "]"
    if is_list or entry[:1] in _QUOTES or entry[-1:] in _QUOTES:
        text = "quotes and brackets around a key would be part of it; write it without them"
        raise ValueError(f"{place}: {text}")
    if not _KEY.fullmatch(entry):
        raise ValueError(f"{place}: {_KEY_ALLOWED}")
    return ApiKey(label, entry)


def _check_apart(keys: Iterable[ApiKey]) -> None:
    """Two lists that are used together are checked together, too."""
    by_key: dict[str, str] = {}
    labels: set[str] = set()
    for each in keys:
        if each.label in labels:
            raise ValueError(f"two keys are called {each.label}; each needs a label of its own")
        if each.key in by_key:
            raise ValueError(f"{each.label} is the same key as {by_key[each.key]}")
        labels.add(each.label)
        by_key[each.key] = each.label


def joined(first: Iterable[ApiKey], second: Iterable[ApiKey]) -> tuple[ApiKey, ...]:
    """Both lists as one.

    Raises:
        ValueError: a label or a key is in both.
    """
    keys = (*first, *second)
    _check_apart(keys)
    return keys


def new_key_line(label: str | None = None) -> str:
    """`label:key` with a random key.

    Raises:
        SettingsError: the label cannot be one.
    """
    label = label if label is not None else f"user-{secrets.token_hex(2)}"
    if not _LABEL.fullmatch(label) or label == ALL:
        raise SettingsError(f"{label!r} cannot be a label: {_LABEL_ALLOWED}")
    return f"{label}:sk-{secrets.token_urlsafe(_RANDOM_BYTES)}"
