"""The metrics of API keys. Labels of keys come from the configuration: a closed set.

They are counted in plain numbers, and made into samples when somebody asks: a counter of
prometheus_client takes a lock for each of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from proxy.telemetry.record import Outcome, Record


class KeySeries(Collector):
    """Requests and tokens by key; empty where no keys are set."""

    def __init__(self) -> None:
        self._requests: dict[str, Counter[Outcome]] = {}
        self._tokens: Counter[str] = Counter()

    def know(self, labels: Iterable[str]) -> None:
        """These are there from now on, as 0; what was counted for others stays."""
        for label in labels:
            if label not in self._requests:
                self._requests[label] = Counter()

    def add(self, record: Record) -> None:
        """Count a record that is finished."""
        if record.key is not None and record.outcome is not None:
            if record.key not in self._requests:
                self.know([record.key])
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
        for label, outcomes in self._requests.items():
            for outcome in Outcome:
                requests.add_metric((label, outcome), outcomes[outcome])
            tokens.add_metric((label,), self._tokens[label])
        return requests, tokens
