"""Gauges of a machine with two GPUs and of a downloaded model, where there are none."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

GIB = 1024**3
_OF_GPUS = {
    "sidecar_gpu_utilization_ratio": (0.8, 0.0),
    "sidecar_gpu_memory_used_bytes": (76 * GIB, 70 * GIB),
    "sidecar_gpu_memory_total_bytes": (80 * GIB, 80 * GIB),
    "sidecar_gpu_temperature_celsius": (64, 41),
    "sidecar_gpu_power_watts": (510, 92),
}


def page(missing_from: str) -> bytes:
    """Those gauges that another page has not; two pages with one series would be counted twice."""
    samples = {
        name: [(f'{{gpu="{gpu}"}}', value) for gpu, value in enumerate(values)]
        for name, values in _OF_GPUS.items()
    }
    samples["sidecar_model_download_bytes"] = [("", 7 * GIB)]
    lines = [
        line
        for name, found in samples.items()
        if f"\n{name}" not in missing_from
        for line in itertools.chain(
            [f"# TYPE {name} gauge"], (f"{name}{labels} {value}" for labels, value in found)
        )
    ]
    return "\n".join([*lines, ""]).encode()


@contextmanager
def exporting(page: Callable[[], bytes]) -> Iterator[int]:
    """The port of a server that answers `/metrics` with this."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(page())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()
