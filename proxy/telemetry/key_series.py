"""The metrics of API keys. Labels of keys come from the configuration: a closed set.

They are counted in plain numbers, and made into samples when somebody asks: a counter of
prometheus_client takes a lock for each of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from time import monotonic

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from proxy.telemetry.record import Outcome, Record

# So that whoever scrapes sees the last of what a key has used.
KEPT_SECONDS = 600.0


class KeySeries(Collector):
    """Requests and tokens by key; empty where no keys are set."""

    def __init__(self) -> None:
        self._requests: dict[str, Counter[Outcome]] = {}
        self._tokens: Counter[str] = Counter()
        # When keys were removed (monotonic seconds).
        self._removed: dict[str, float] = {}

    def know(self, labels: Iterable[str]) -> None:
        """These are the keys there are, from now on; series of a key that is none of them end ten
        minutes later."""
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
        if record.payer is not None:
            self._tokens[record.payer] += record.charged_tokens

    def collect(self) -> Iterable[CounterMetricFamily]:
        requests = CounterMetricFamily(
            "sidecar_key_requests", "Requests by API key.", labels=("key", "outcome")
        )
        tokens = CounterMetricFamily(
            "sidecar_key_tokens", "Tokens charged to an API key.", labels=("key",)
        )
        oldest = monotonic() - KEPT_SECONDS
        for label in [label for label, when in self._removed.items() if when < oldest]:
            del self._removed[label], self._requests[label], self._tokens[label]
        for label, outcomes in self._requests.items():
            for outcome in Outcome:
                requests.add_metric((label, outcome), outcomes[outcome])
            tokens.add_metric((label,), self._tokens[label])
        return requests, tokens
