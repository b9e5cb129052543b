"""The requests that an engine has lost by its death."""

from __future__ import annotations

import logging

from proxy.access.poison import PoisonGuard
from proxy.relay.in_flight import InFlightRequests
from proxy.telemetry.request_log import log_in_flight

_log = logging.getLogger("proxy")


def report_lost(in_flight: InFlightRequests, poison: PoisonGuard) -> None:
    """The engine has died: log the requests that it has lost, and suspect them."""
    lost = in_flight.pop_lost()
    log_in_flight([record for record, _ in lost])
    fingerprints = (fingerprint for _, fingerprint in lost if fingerprint is not None)
    refused = poison.died(fingerprints)
    for record, fingerprint in lost:
        if fingerprint in refused:
            _log.warning(
                "the engine has died of this request again: refused for ten minutes",
                extra={"fields": {"request_id": record.request_id}},
            )
