"""`python3 -m proxy`: commands, exit codes, the server, signals; nothing else.

Exit codes: 0 stopped by a signal, 1 the engine failed (`ON_ENGINE_FAILURE=exit`) or the
port is taken, 2 a variable or the command line is wrong, 128 + N ended by force with signal N.
"""

from __future__ import annotations

import gc
import logging
import os
import shlex
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import uvloop

from proxy.access.keys import Keys
from proxy.app import build
from proxy.commands import check, models
from proxy.errors import SettingsError
from proxy.init import serve_as_child
from proxy.lifecycle import Lifecycle
from proxy.models.preset_choice import load_settings
from proxy.protocols.named import named_protocols
from proxy.server.listener import allow_many_connections, listen
from proxy.settings import Settings
from proxy.settings.keys import new_key_line
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


HELP = """\
python3 -m proxy          start the engine and serve it; environment variables are the settings
python3 -m proxy check    find out whether that would work, in seconds: 0 yes, 1 no, 2 bad settings
python3 -m proxy models   list the presets, and which fit this GPU or one of `--gpu-gb 24`
python3 -m proxy keys     make an API key, as label:key; `keys LABEL` calls it so
python3 -m proxy --help   this text; docs/configuration.md has the variables
"""


def main(arguments: Sequence[str]) -> int:
    match list(arguments):
        case [] | ["serve"]:  # SageMaker says the latter
            return serve()
        case ["check"]:
            return check.main(os.environ)
        case ["models", *options]:
            return models.main(os.environ, *options)
        case ["keys", *label] if len(label) <= 1:
            return make_key(*label)
        case ["--help" | "-h"]:
            print(HELP, end="")
            return 0
    words = shlex.join(arguments)
    allowed = "none, check, models, keys and --help"
    _complain(f"unknown command: {words}; allowed are {allowed}")
    return 2


def make_key(label: str | None = None) -> int:
    try:
        print(new_key_line(label))
    except SettingsError as error:
        _complain(str(error))
        return 2
    return 0


def serve() -> int:
    try:
        settings = load_settings(os.environ)
        # What is wrong with these is told before anything is started.
        Keys(settings)
        named_protocols(settings)
        if os.getpid() == 1 and (code := serve_as_child()) is not None:
            return code
        logs.configure(
            settings.log_format, settings.log_level, settings.log_file, settings.log_target
        )
        spans = open_tracing(settings)
    except SettingsError as error:
        _complain(str(error))
        return 2
    allow_many_connections()
    try:
        ports = (settings.port, settings.port_health, settings.port_of_metrics)
        sockets = listen(settings.host, tuple(filter(None, ports)))
    except OSError as error:
        _complain(f"cannot listen on {settings.host}: {error.strerror}")
        return 1
    # What is there now stays for good: no collection need ever look at it again.
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)
    return uvloop.run(_serve(settings, sockets, spans))


async def _serve(settings: Settings, sockets: list[socket.socket], spans: Spans | None) -> int:
    code = await Lifecycle(build(settings, spans)).run(sockets)
    _end_without_threads(code)
    return code


def _end_without_threads(code: int) -> None:
    """End the process soon, also where one of its threads waits for what has gone."""

    def end() -> None:
        _log.warning("ending all the same: a disk, a driver or a name server does not answer")
        logs.flush()
        os._exit(code)

    timer = threading.Timer(_LAST_SECONDS, end)
    timer.daemon = True
    timer.start()


def _complain(text: str) -> None:
    with suppress(OSError):  # the exit code says it too
        print(text, file=sys.stderr)


def _flushed(code: int) -> int:
    """The exit code, when all that was printed is out: Python would make it 120 where it is not."""
    for stream, code_of_failure in ((sys.stdout, code or 1), (sys.stderr, code)):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            code = code_of_failure
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


if __name__ == "__main__":
    sys.exit(_flushed(main(sys.argv[1:])))
