"""The sidecar as a process with a fake engine below it, and what is asked of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.engine.service import FORKED, Service
from tests.fake_engine import BIN, x_fake
from tests.measure import measured

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
STREAM = CHAT | {"stream": True}
CHILDREN = {"FAKE_ENGINE_CHILDREN": "2", "FAKE_ENGINE_ORPHANS": "1"}

Start = Callable[..., Service]


class Gate:
    """Holds back each start of an engine while it is closed: `start(**gate.environ)`."""

    def __init__(self, folder: Path, *, is_open: bool = False) -> None:
        self._file = folder / "gate" / "open"
        vllm = folder / "gate" / "vllm"
        vllm.parent.mkdir()
        vllm.write_text(
            f'#!/bin/sh\nwhile [ ! -e "{self._file}" ]; do sleep 0.05; done\n'
            f'exec "{BIN}/vllm" "$@"\n'
        )
        vllm.chmod(0o755)
        self.environ = {"PATH": f"{vllm.parent}:{BIN}:{os.environ['PATH']}"}
        if is_open:
            self.open()

    def open(self) -> None:
        self._file.touch()

    def close(self) -> None:
        self._file.unlink()


@contextmanager
def starting(folder: Path, model: Path) -> Iterator[Start]:
    """Starts the sidecar with `vllm` being the fake one, that gets these variables."""
    with ExitStack() as stack:

        def started(**environ: str) -> Service:
            given = {
                **measured(),
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "PYTHON": sys.executable,
                "MODEL_NAME": str(model),
                "SERVED_MODEL_NAME": "tiny",
                "FAKE_ENGINE_PHASE_SECONDS": "0.02",
                "FAKE_ENGINE_STATE": str(folder / "starts"),
            }
            service = Service(folder, FORKED, **(given | environ))
            return stack.enter_context(service)

        yield started


def starts(folder: Path) -> int:
    """How often the engine was started."""
    return int((folder / "starts").read_text())


def chat(service: Service, body: dict[str, Any] = CHAT, **fake: Any) -> httpx.Response:
    return service.client.post("/v1/chat/completions", json=body, headers=x_fake(**fake))


def streamed(service: Service, body: dict[str, Any] = STREAM, **fake: Any) -> Iterator[str]:
    """The lines of a streamed answer, as they come."""
    with service.client.stream(
        "POST", "/v1/chat/completions", json=body, headers=x_fake(**fake)
    ) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line:
                yield line
