"""How much a key may use, and how that is written: `rpm=60,tpm=100000`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

from proxy.settings.environment import shown

ALL = "all"
"""Stands for all keys together; no key can be called so."""

_WORD = re.compile(r"([a-z_]+)=([1-9]\d{0,14})")


@dataclass(frozen=True, slots=True)
class Allowance:
    """Each None is no limit."""

    rpm: int | None = None
    """Requests a minute."""
    tpm: int | None = None
    """Tokens a minute, read and generated."""
    tpd: int | None = None
    """Tokens a day, which begins at midnight UTC."""
    in_flight: int | None = None
    """Requests at once."""
    loads_per_hour: int | None = None
    """Loads of models that requests bring about."""

    def or_else(self, other: Allowance) -> Allowance:
        """This one; where it says nothing, the other."""
        mine = {name: getattr(self, name) for name in NAMES}
        theirs = {name: getattr(other, name) for name in NAMES}
        return Allowance(**{name: mine[name] or theirs[name] for name in NAMES})


NAMES = tuple(each.name for each in fields(Allowance))
ALLOWED = f"allowed are {', '.join(NAMES)}, each as name=number"
NOTHING = Allowance()


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What `KEY_LIMITS` says: for each key, for some by their labels, for all together."""

    each: Allowance = NOTHING
    all: Allowance = NOTHING
    by_label: Mapping[str, Allowance] = field(default_factory=dict)

    @property
    def names_keys(self) -> bool:
        return self.each != NOTHING or bool(self.by_label)


def parse_allowance(words: Sequence[str]) -> Allowance:
    """`name=number` each.

    Raises:
        ValueError: one is none; it does not repeat it, for it may be half of a key.
    """
    limits: dict[str, int] = {}
    for word in words:
        match = _WORD.fullmatch(word)
        if match is None or match[1] not in NAMES or match[1] in limits:
            raise ValueError(ALLOWED)
        limits[match[1]] = int(match[2])
    return Allowance(**limits)


def parse_key_limits(text: str) -> KeyLimits:
    """`rpm=60,tpm=9000; alice: rpm=600; all: rpm=1000`: entries between semicolons.

    Raises:
        ValueError: says which entry is wrong.
    """
    by_label: dict[str, Allowance] = {}
    for entry in filter(None, map(str.strip, text.split(";"))):
        label, colon, words = entry.rpartition(":")
        label = label.strip()
        if (colon and not label) or label in by_label:
            raise ValueError(f"{shown(entry)}: each label once, and before a colon")
        try:
            by_label[label] = parse_allowance(re.split(r"[,\s]+", words.strip()))
        except ValueError as error:
            raise ValueError(f"{shown(entry)}: {error}") from None
    if not by_label:
        raise ValueError(ALLOWED)
    each, all_together = by_label.pop("", NOTHING), by_label.pop(ALL, NOTHING)
    return KeyLimits(each, all_together, by_label)
