"""`serve`: the settings, the listening sockets, and the sidecar between its start and its end.

Exit codes: 0 stopped by a signal, 1 the engine failed (`ON_ENGINE_FAILURE=exit`) or the
port is taken, 2 a variable is wrong, 128 + N ended by force with signal N.
"""

from __future__ import annotations

import gc
import logging
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING

import uvloop

from proxy.access.keys import Keys
from proxy.app import build
from proxy.commands import complain
from proxy.init import serve_as_child
from proxy.lifecycle import Lifecycle
from proxy.models.preset_choice import load_settings
from proxy.preflight.together import check_models
from proxy.protocols.named import named_protocols
from proxy.server.listener import allow_many_connections, listen
from proxy.settings import LogFormat, Settings
from proxy.telemetry import logs
from proxy.telemetry.tracing import open_tracing

if TYPE_CHECKING:
    from proxy.telemetry.spans import Spans

_log = logging.getLogger("proxy")

# Objects made before the garbage collector looks for cycles. A request makes few of them;
# Python's 700 would have it look after every second request.
GC_THRESHOLD = 20_000
# Python waits for its threads before it ends, and a disk or a driver in trouble may hold one.
_LAST_SECONDS = 3.0


def serve() -> int:
    """Returns the exit code. Raises SettingsError before anything is started."""
    settings = load_settings(os.environ)
    # What is wrong with these is told before anything is started.
    Keys(settings)
    named_protocols(settings)
    check_models(settings)
    if os.getpid() == 1 and (code := serve_as_child()) is not None:
        return code
    # OpenTelemetry's SDK reads its variables by itself: without what platforms leave around values.
    read = settings.environ.items()
    os.environ.update({name: text for name, text in read if name.startswith("OTEL_")})
    # A person looks at a terminal, and a program at a pipe.
    is_unset = "log_format" not in settings.model_fields_set
    log_format = LogFormat.TEXT if is_unset and sys.stdout.isatty() else settings.log_format
    logs.configure(log_format, settings.log_level, settings.log_file, settings.log_target)
    spans = open_tracing(settings)
    allow_many_connections()
    try:
        ports = (settings.port, settings.port_health, settings.port_of_metrics)
        sockets = listen(settings.host, tuple(filter(None, ports)))
    except OSError as error:
        complain(f"cannot listen on {settings.host}: {error.strerror}")
        return 1
    # What is there now stays for good: no collection need ever look at it again.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    return uvloop.run(_serve(settings, sockets, spans))


async def _serve(settings: Settings, sockets: list[socket.socket], spans: Spans | None) -> int:
    """Returns the exit code; the process ends soon, also where a thread waits for what has gone."""
    code = await Lifecycle(build(settings, spans)).run(sockets)

    def end() -> None:
        _log.warning("ending all the same: a disk, a driver or a name server does not answer")
        logs.flush()
        os._exit(code)

    timer = threading.Timer(_LAST_SECONDS, end)
    timer.daemon = True
    timer.start()
    return code
