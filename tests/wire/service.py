"""The sidecar as a process in front of the fake engine, and what can be seen of both."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.engine.service import FORKED, Line, Service
from tests.fake_engine import FakeEngine, Received
from tests.measure import measured
from tests.patience import PATIENCE
from tests.wire import secrets
from tests.wire.client import Answer, Client, request

# Sidecar and engine were asked so often, and nothing has moved. A pause of either is one look.
_LOOKS_AT_REST, _LOOK_SECONDS = 25, 0.02
# A look may be a request: who waits for long looks less often.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.002, 0.05
_COUNTED = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$")


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
    """Wait for something that another process does."""
    end, pause = time.monotonic() + seconds, _FIRST_PAUSE
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(pause)
        pause = min(1.5 * pause, _LONGEST_PAUSE)


class Sidecar(Service):
    """`python -m proxy`, forked, in front of an engine that runs already."""

    def __init__(self, folder: Path, engine: FakeEngine, **environ: str) -> None:
        super().__init__(
            folder,
            FORKED,
            UPSTREAM_URL=engine.url,
            HF_TOKEN=secrets.TOKEN,
            LOG_LEVEL="debug",
            **measured(),
            **{"HOST": "127.0.0.1", **environ},
        )
        self.engine = engine
        self._read_bytes = 0
        self._rest = b""
        self._records: dict[str, list[Line]] = {}
        self._others: list[str] = []

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, at)
        # Whatever a test has asked for: no level of the log has the words.
        assert not (found := secrets.found_in(self.log)), found[:3]

    def wait_until_ready(self) -> None:
        self.wait_for("ready", PATIENCE)

    def restart(self) -> None:
        """Begin anew after a test that has left something behind."""
        self.process.kill()
        self.process.wait()
        self._read_bytes, self._rest = 0, b""
        self.start()
        self.wait_until_ready()

    # Asking

    def connect(self, *, receive_bytes: int = 0, seconds: float = PATIENCE) -> Client:
        return Client(self.port, receive_bytes=receive_bytes, seconds=seconds)

    def ask(self, path: str, body: Any = None, /, **more: Any) -> Answer:
        """One request on a connection of its own and its answer."""
        with self.connect() as client:
            request_id = client.ask(path, body, **more)
            answer = client.answer(method=more.get("method") or "POST")
            answer.request_id = answer.request_id or request_id
            return answer

    def ask_engine(self, path: str, body: Any = None, /, **more: Any) -> Answer:
        """The same without the sidecar in between."""
        with Client(self.engine.port) as client:
            client.send(request(path, body, **more))
            return client.answer(method=more.get("method") or "POST")

    # What it wrote

    def record(self, of: Answer | str) -> Line:
        """The access line of a request; it is written after the last byte is out."""
        request_id = of if isinstance(of, str) else of.request_id
        until(lambda: self.records(request_id), f"a line for request {request_id}")
        (line,) = self.records(request_id)
        return line

    def records(self, request_id: str) -> list[Line]:
        """The access lines so far that name a request."""
        self._read_log()
        return self._records.get(request_id, [])

    def other_lines(self) -> list[str]:
        """All that it printed so far and that is not an access line."""
        self._read_log()
        return self._others

    def _read_log(self) -> None:
        with self.log.open("rb") as file:
            file.seek(self._read_bytes)
            data = file.read()
        self._read_bytes += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for text in lines:
            line = json.loads(text) if text.startswith(b"{") else {}
            if line.get("logger") == "proxy.access":
                self._records.setdefault(line["request_id"], []).append(line)
            else:
                self._others.append(text.decode(errors="replace"))

    # What it counts

    def value(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        wanted = {f'{key}="{value}"' for key, value in labels.items()}
        total = 0.0
        for line in self.page().splitlines():
            match = _COUNTED.match(line)
            if match and match[1] == name and wanted <= set((match[2] or "").split(",")):
                total += float(match[3])
        return total

    def page(self) -> str:
        return self.client.get("/metrics").text

    def wait_until_idle(self) -> None:
        """Until no request is in flight any more, here and at the engine."""
        until(lambda: self.value("sidecar_requests_in_flight") == 0, "no request in flight")
        until(lambda: self.engine.stats()["in_flight"] == 0, "an idle engine")

    def forget_peak(self) -> None:
        """Begin `VmHWM` anew."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    # What the engine saw

    def relayed(self) -> list[Received]:
        """All requests of clients that came to the engine; our own probes carry no id."""
        return [each for each in self.engine.requests() if each.header("x-request-id")]

    def seen(self, of: Answer | str) -> list[Received]:
        """The requests that came to the engine under an id."""
        request_id = of if isinstance(of, str) else of.request_id
        found = self.engine.requests()
        return [each for each in found if each.header("x-request-id") == [request_id]]

    def wait_until_seen(self, request_id: str) -> Received:
        """Until the engine has the head of a request."""
        until(lambda: self.seen(request_id), f"request {request_id} at the engine")
        (received,) = self.seen(request_id)
        return received

    def wait_until_at_rest(self, *request_ids: str) -> None:
        """Until the engine waits for the readers of these for good."""
        for each in request_ids:
            self.wait_until_seen(each)
        sent, looks = list[int](), 0

        def rests() -> bool:
            nonlocal sent, looks
            time.sleep(_LOOK_SECONDS)
            self.client.get("/health")
            received = [each for request_id in request_ids for each in self.seen(request_id)]
            before, sent = sent, [each.events for each in received]
            is_same = sent == before and all(each.unsent_bytes > 0 for each in received)
            looks = looks + 1 if is_same else 0
            return looks >= _LOOKS_AT_REST

        until(rests, "an engine that waits")

    def wait_until_aborted(self, request_id: str) -> Received:
        """Until the engine's work on a request has been stopped."""
        until(lambda: self.seen(request_id)[0].aborted, f"the end of {request_id}")
        (received,) = self.seen(request_id)
        return received


def fields(line: Mapping[str, Any], *names: str) -> tuple[Any, ...]:
    """Some fields of an access line; None for one that is absent."""
    return tuple(line.get(name) for name in names)


def ending(line: Mapping[str, Any]) -> tuple[Any, ...]:
    """How a request ended: status, outcome, who failed, and the short name of the error."""
    return fields(line, "status", "outcome", "error_source", "error")
