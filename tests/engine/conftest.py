"""One sidecar with real vLLM for all tests that only ask it something."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from tests.engine.service import Service

# Real vLLM, on two cores that may have other things to do.
READY_SECONDS = 600.0
TOKEN = "hf_ThisIsNobodysToken"


@pytest.fixture(scope="module")
def starting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """`scripts/start.sh` without MODEL_NAME, from the moment of its start."""
    options = {
        "ENABLE_AUTO_TOOL_CHOICE": "true",
        "TOOL_CALL_PARSER": "hermes",
        # A model of random weights would never come to the end of the spaces that JSON allows.
        "STRUCTURED_OUTPUTS_CONFIG": '{"backend": "xgrammar", "disable_any_whitespace": true}',
        "ALLOW_PRIVATE_MEDIA": "true",  # pictures come from this machine
        "DRAIN_SECONDS": "600",
    }
    with Service(tmp_path_factory.mktemp("service"), HF_TOKEN=TOKEN, **options) as service:
        yield service


@pytest.fixture(scope="module")
def service(starting: Service) -> Service:
    """The same once it is ready."""
    starting.wait_for("ready", READY_SECONDS)
    return starting


@pytest.fixture(scope="session")
def picture() -> bytes:
    """A PNG."""
    image = Image.new("RGB", (160, 120), "navy")
    image.paste("gold", (40, 30, 120, 90))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def picture_url(picture: bytes) -> Iterator[str]:
    """The picture, served over HTTP on this machine."""

    class PictureRequest(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "image/png")
            self.send_header("content-length", str(len(picture)))
            self.end_headers()
            self.wfile.write(picture)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), PictureRequest) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/picture.png"
        server.shutdown()
