"""A fake `vllm serve` for faults that real vLLM cannot be made to show on demand, and for speed.

`FakeEngine` runs it as a process; `script.Script` lists what a request can ask it to do wrong;
`scenario.Scenario` lists the `FAKE_ENGINE_*` variables that script its life.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from .received import Received
from .script import Script

if TYPE_CHECKING:
    from tests.fork_server import Process

__all__ = ["BIN", "FakeEngine", "Received", "Script", "x_fake"]

BIN = Path(__file__).parent / "bin"
START_SECONDS = 60.0
_LISTENING = re.compile(r"^listening on (\d+)$", re.MULTILINE)


def x_fake(**keys: Any) -> dict[str, str]:
    """The header that scripts one request: `x_fake(tokens=3, die="between_events:2")`."""
    msgspec.convert(keys, Script)  # a typo fails here, in the test
    return {"x-fake": json.dumps(keys)}  # header values are ASCII


class FakeEngine:
    """The fake engine as a process: `with FakeEngine() as engine:`.

    `arguments` go on the command line, `environment` on top of ours (the `FAKE_ENGINE_*` names).
    The process leads a group of its own; at the end the whole group is killed.
    """

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        uds: Path | None = None,
    ) -> None:
        self._arguments: Sequence[str] = arguments
        self._environment = {**os.environ, **(environment or {})}
        self._uds = uds
        self._log = Path(tempfile.mkstemp(prefix="fake-engine-", suffix=".log")[1])
        self.process: Process
        self.port = 0

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")

    def start(self) -> Self:
        """Start it and wait until it listens."""
        arguments = [*self._arguments, "--port", "0"]
        if self._uds is not None:
            arguments += ["--uds", str(self._uds), "--also-tcp"]
        with self._log.open("wb") as output:
            # Not at the top: the engine itself is started without the folder of the tests.
            from tests.fork_server import FAKE_ENGINE

            self.process = FAKE_ENGINE.start(arguments, self._environment, output, new_session=True)
        try:
            self._wait_until_listening()
        except BaseException:
            self.stop()
            raise
        return self

    def _wait_until_listening(self) -> None:
        """Block until the port is known; `RuntimeError` with the log if it never is."""
        end = time.monotonic() + START_SECONDS
        while (match := _LISTENING.search(self.log)) is None:
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the fake engine did not start:\n{self.log}")
            time.sleep(0.01)
        self.port = int(match[1])

    def stop(self) -> None:
        """Kill its group and wait for it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._log.unlink(missing_ok=True)

    def requests(self) -> list[Received]:
        """What it has been sent since the last reset (its own `/__fake/*` excepted)."""
        answer = msgspec.json.decode(self._call("GET", "requests"), type=dict[str, list[Received]])
        return answer["requests"]

    def stats(self) -> dict[str, float]:
        """Connections, requests in flight, aborts, tokens, CPU seconds."""
        return msgspec.json.decode(self._call("GET", "stats"), type=dict[str, float])

    def reset(self) -> None:
        """Forget requests, path scripts and a release."""
        self._call("POST", "reset")

    def release(self) -> None:
        """Let all go on that `hold_at` holds back, now and until the next reset."""
        self._call("POST", "release")

    def script(self, path: str, **keys: Any) -> None:
        """Script every request to `path` until the next reset; without keys, no longer."""
        body = {"path": path, "script": keys or None}
        self._call("POST", "script", msgspec.json.encode(body))

    def _call(self, method: str, name: str, body: bytes | None = None) -> bytes:
        import urllib.request  # the engine itself does without, and is started often

        request = urllib.request.Request(f"{self.url}/__fake/{name}", body, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=START_SECONDS) as response:
            return bytes(response.read())

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
