"""The metrics of API keys. Labels of keys come from the configuration: a closed set.

They are counted in plain numbers, and made into samples by a scrape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from time import monotonic

from prometheus_client import Metric
from prometheus_client.registry import Collector

from proxy.telemetry import catalogue
from proxy.telemetry.record import Outcome, Record

# So that a scrape still sees the last of what a key has used.
KEPT_SECONDS = 600.0


class KeySeries(Collector):
    """Requests and tokens by key; empty where no keys are set."""

    def __init__(self) -> None:
        self._requests: dict[str, Counter[Outcome]] = {}
        self._tokens: Counter[str] = Counter()
        # When keys were removed (monotonic seconds).
        self._removed: dict[str, float] = {}

    def set_labels(self, labels: Iterable[str]) -> None:
        """The labels of all keys from now on; series of a key that is removed end ten minutes
        later."""
        now = monotonic()
        current = dict.fromkeys(labels)
        for label in current:
            self._requests.setdefault(label, Counter())
            self._removed.pop(label, None)
        for label in self._requests:
            if label not in current:
                self._removed.setdefault(label, now)

    def add(self, record: Record) -> None:
        """Count a record that is finished."""
        if record.outcome is not None and record.key in self._requests:
            self._requests[record.key][record.outcome] += 1
        if record.payer in self._requests:
            self._tokens[record.payer] += record.charged_tokens

    def collect(self) -> Iterable[Metric]:
        oldest = monotonic() - KEPT_SECONDS
        for label in [label for label, when in self._removed.items() if when < oldest]:
            del self._removed[label], self._requests[label], self._tokens[label]
        requests = catalogue.KEY_REQUESTS.metric(
            ((label, outcome), outcomes[outcome])
            for label, outcomes in self._requests.items()
            for outcome in Outcome
        )
        tokens = (((label,), self._tokens[label]) for label in self._requests)
        return requests, catalogue.KEY_TOKENS.metric(tokens)
