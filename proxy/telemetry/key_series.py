"""The metrics of API keys. Labels of keys come from the configuration: a closed set."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from time import monotonic

from proxy.telemetry import catalogue
from proxy.telemetry.family import Families
from proxy.telemetry.record import Outcome, Record

# So that a scrape still sees the last of what a key has used.
KEPT_SECONDS = 600.0


class KeySeries:
    """Requests and tokens by key; empty where no keys are set."""

    def __init__(self, families: Families) -> None:
        self._families = families
        self._requests = families[catalogue.KEY_REQUESTS]
        self._tokens = families[catalogue.KEY_TOKENS]
        # By label: when its series end (monotonic seconds); never, while there is the key.
        self._ends: dict[str, float] = {}

    def set_labels(self, labels: Iterable[str]) -> None:
        """The labels of all keys from now on; series of a key that is removed end ten minutes
        later."""
        end = monotonic() + KEPT_SECONDS
        self._ends = {label: min(end, before) for label, before in self._ends.items()}
        for label in labels:
            self._ends[label] = inf
            self._tokens.child(label)
            for outcome in Outcome:
                self._requests.child(label, outcome)

    def add(self, record: Record) -> None:
        """Count a record that is finished."""
        if record.outcome is not None and record.key in self._ends:
            self._requests.child(record.key, record.outcome).value += 1
        if record.payer in self._ends:
            self._tokens.child(record.payer).value += record.charged_tokens

    def forget_removed(self) -> None:
        """End the series whose ten minutes are over."""
        now = monotonic()
        if gone := [label for label, end in self._ends.items() if end < now]:
            for label in gone:
                del self._ends[label]
            self._families.forget("key", gone)
