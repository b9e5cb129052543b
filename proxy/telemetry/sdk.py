"""What both exports need of OpenTelemetry's SDK, which reads its own variables (`OTEL_*`)."""

from __future__ import annotations

import logging
import os
import threading
from importlib import import_module
from typing import Any

from opentelemetry.sdk.resources import Resource

from proxy import __version__
from proxy.settings.environment import without_secrets
from proxy.settings.otlp import OtlpProtocol, OtlpTarget

SERVICE_NAME = "vllm-sidecar"
_MAX_REASON_CHARS = 300

_log = logging.getLogger("proxy.tracing")


class SdkLog(logging.Handler):
    """Takes the SDK's own lines: two or three for each attempt, of which the first has the reason.

    They are on level `debug` here, but for that of a header which is left out. An export logs in
    the thread that made it.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._of_thread = threading.local()

    def listen(self) -> None:
        """From now on the SDK's own lines come here, and to no other handler."""
        sdk = logging.getLogger("opentelemetry")
        sdk.handlers = [self]
        sdk.propagate = False

    def begin_attempt(self) -> None:
        self._of_thread.is_first = True

    @property
    def reason(self) -> str:
        """Why the attempt of this thread failed. Where the SDK has said nothing it is as before: it
        leaves out what it has said in the last 20 s."""
        text = getattr(self._of_thread, "reason", None) or "no reason is known"
        return text[:_MAX_REASON_CHARS]

    def emit(self, record: logging.LogRecord) -> None:
        text = without_secrets(record.getMessage())
        if getattr(self._of_thread, "is_first", True):
            self._of_thread.reason, self._of_thread.is_first = text, False
        _log.log(logging.WARNING if text.startswith("Header") else logging.DEBUG, "%s", text)


SDK_LOG = SdkLog()


def exporter(target: OtlpTarget, module: str, name: str) -> Any:
    """The SDK's exporter of one signal. Each protocol brings its own libraries: one is imported.

    Raises:
        ImportError: it is not installed.
        ValueError: a variable of the SDK's holds what it cannot use.
    """
    SDK_LOG.listen()
    wire = "grpc" if target.protocol is OtlpProtocol.GRPC else "http"
    make = getattr(import_module(f"opentelemetry.exporter.otlp.proto.{wire}.{module}"), name)
    # Who provides credentials has a session of his own.
    if wire == "grpc" or any(each.endswith("_CREDENTIAL_PROVIDER") for each in os.environ):
        return make(endpoint=target.url)
    session = import_module("requests").Session()
    session.hooks["response"].append(_refuse_redirect)
    return make(endpoint=target.url, session=session)


def _refuse_redirect(response: Any, **_: Any) -> None:
    """Newer SDKs follow no redirect, and take it for success."""
    if 300 <= response.status_code < 400:
        place = response.headers.get("location", "nowhere")
        response.reason = f"a redirect ({response.status_code}) to {place}"
        response.status_code = 400


def resource() -> Resource:
    """Who we are; what the SDK's own variables say of it goes before."""
    named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    ours = {"service.version": __version__}
    return Resource.create(ours if named else {**ours, "service.name": SERVICE_NAME})
