"""docs/architecture.md draws the path of a request: these files, and no others."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections import Counter
from functools import partial
from pathlib import Path

from tests.engine.service import PROJECT, Service
from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE
from tests.wire.client import CHAT, Client, prompt
from tests.wire.service import until

MOST_FILES, WALKS = 20, 10
_DRAWN_FILE = re.compile(r"\b[\w/]+\.py\b")


def drawn(title: str) -> set[str]:
    """The files in the drawing below a line of the page."""
    page = (PROJECT / "docs/architecture.md").read_text()
    drawing = page.partition(title)[2].partition("```\n")[2].partition("```")[0]
    return set(_DRAWN_FILE.findall(drawing))


def _is_logged(service: Service, request_id: str) -> bool:
    return request_id in service.log.read_text()


def walked(service: Service, client: Client, notes: Path, *, stream: bool) -> set[str]:
    """What nearly every chat runs through. A timer may run beside one, and on a crowded machine all
    tokens of one may come at once, past no fast path."""
    walks = Counter[str]()
    for number in range(WALKS):
        name = f"walk-{stream}-{number}"
        os.kill(service.process.pid, signal.SIGUSR1)
        body = prompt(CHAT, {"stream": stream, "max_tokens": 4})
        client.ask(CHAT, body, request_id=name)
        assert client.answer().status == 200
        until(partial(_is_logged, service, name), "the line of the request")
        os.kill(service.process.pid, signal.SIGUSR2)
        until(notes.exists, "the files that it ran through")
        walks.update(set(json.loads(notes.read_text())))
        notes.unlink()
    return {file for file, times in walks.items() if times >= 0.8 * WALKS}


def test_a_chat_runs_through_the_files_that_are_drawn_and_no_more_than_twenty(
    tmp_path: Path,
) -> None:
    notes = tmp_path / "walked.json"
    command = (sys.executable, "-m", "tests.walk", str(notes))
    with (
        FakeEngine("--tick-ms", "5") as engine,
        Service(tmp_path, command, UPSTREAM_URL=engine.url) as service,
    ):
        service.wait_for("ready", PATIENCE)
        with Client(service.port) as client:  # one connection; a request comes in one piece
            client.ask("/v1/models")
            assert client.answer(method="GET").status == 200
            plain = walked(service, client, notes, stream=False)
            assert plain == drawn("## The path of one request")
            assert len(plain) <= MOST_FILES
            streamed = walked(service, client, notes, stream=True)
            assert streamed - plain == drawn("What a stream adds")
