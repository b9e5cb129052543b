"""Headless Chromium over its DevTools protocol: no driver and no package but `websockets`."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httpx
from PIL import Image
from websockets.sync.client import ClientConnection, connect

from tests.engine.service import wait_until
from tests.patience import PATIENCE

DESK, PHONE = (1200, 1000), (390, 844)
_GROUND = {"light": "rgb(244, 245, 247)", "dark": "rgb(20, 22, 26)"}
_POLL_SECONDS = 0.05
# What a browser would otherwise ask the world by itself.
_QUIET = (
    *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-quic", "--disable-gpu", "--no-default-browser-check"),
    "--hide-scrollbars",
)


class Chromium:
    """The browser as a process: `with Chromium(program, folder) as chromium:`."""

    def __init__(self, program: str, folder: Path, *more: str) -> None:
        """`more` are options of the browser's."""
        self._port_file = folder / "profile/DevToolsActivePort"
        # Root may not use the sandbox; what is opened here are our own pages only.
        self._command = [
            *(program, "--headless=new", "--no-sandbox", "--remote-debugging-port=0", *_QUIET),
            f"--user-data-dir={folder / 'profile'}",
            *more,
            "about:blank",
        ]
        self._log = folder / "chromium.log"
        self._process: subprocess.Popen[bytes]
        self._http: httpx.Client

    def __enter__(self) -> Self:
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        try:
            wait_until(self._listens, PATIENCE, "a browser")
        except AssertionError:
            self._process.kill()
            raise AssertionError(self._log.read_text(errors="replace")) from None
        port = self._port_file.read_text().splitlines()[0]
        self._http = httpx.Client(
            base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE, trust_env=False
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._process.terminate()
        self._process.wait(PATIENCE)

    def _listens(self) -> bool:
        assert self._process.poll() is None, "it has ended"
        return self._port_file.exists() and len(self._port_file.read_text().splitlines()) == 2

    @contextmanager
    def tab(self) -> Iterator[Tab]:
        """A new tab, with a session storage of its own."""
        url = self._http.put("/json/new?about:blank").json()["webSocketDebuggerUrl"]
        with connect(url, max_size=None, compression=None, proxy=None) as socket:
            tab = Tab(socket)
            yield tab
            tab.call("Page.close")


class Tab:
    """One page."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._calls = 0
        self.complaints: list[str] = []
        """Errors in the console, exceptions, and what the page's policy forbids."""
        self.asked: list[str] = []
        """Every address that was asked."""
        for domain in ("Page", "Runtime", "Log", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol."""
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(PATIENCE))
            if message.get("id") == self._calls:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result
            self._note(message["method"], message["params"])

    def _note(self, event: str, parameters: dict[str, Any]) -> None:
        match event:
            case "Network.requestWillBeSent":
                self.asked.append(parameters["request"]["url"])
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(parameters["exceptionDetails"]))
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.complaints.append(json.dumps(parameters["entry"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "assert"):
                self.complaints.append(json.dumps(parameters["args"]))

    # Looking

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression."""
        answer = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, script: str, seconds: float = PATIENCE) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(script):
            assert time.monotonic() < end, f"not within {seconds:g} s: {script}\n{self.words()}"
            time.sleep(_POLL_SECONDS)

    def words(self, selector: str = "body") -> str:
        """The text that can be seen."""
        found: str = self.run(f"document.querySelector({json.dumps(selector)}).innerText")
        return found

    def sees(self, words: str, selector: str = "body") -> None:
        """Wait until these words can be seen."""
        place = f"document.querySelector({json.dumps(selector)}).innerText"
        self.until(f"{place}.includes({json.dumps(words)})")

    # Doing

    def write(self, selector: str, words: str) -> None:
        """Type into a field."""
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=words)

    def click(self, selector: str) -> None:
        """Click an element that can be seen; a mouse would miss one that the next poll moves."""
        element = f"document.querySelector({json.dumps(selector)})"
        assert self.run(f"{element}.checkVisibility()"), selector
        self.call("Runtime.evaluate", expression=f"{element}.click()", userGesture=True)

    def choose(self, selector: str, file: Path) -> None:
        """Choose a file in a file field."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    # The look of it

    def size(self, width: int, height: int, *, telephone: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=telephone,
        )

    def scheme(self, name: str) -> None:
        """`light` or `dark`."""
        feature = {"name": "prefers-color-scheme", "value": name}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def photograph(self, file: Path) -> None:
        """What is on the screen, as a small PNG."""
        self.run("window.scrollTo(0, 0)")
        shot = self.call("Page.captureScreenshot", format="png")
        picture = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
        picture.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)


def every_screen(tab: Tab) -> Iterator[tuple[str, int]]:
    """Shows a page at a desk and on a telephone, in light and dark: the name and width of each."""
    for screen, size in (("desk", DESK), ("telephone", PHONE)):
        for scheme, ground in _GROUND.items():
            tab.size(*size, telephone=screen == "telephone")
            tab.scheme(scheme)
            assert tab.run("getComputedStyle(document.body).backgroundColor") == ground
            yield f"{screen}-{scheme}", size[0]


def photograph(tab: Tab, name: str) -> None:
    """With SCREENSHOTS, a picture in that folder."""
    if folder := os.environ.get("SCREENSHOTS"):
        tab.photograph(Path(folder) / f"{name}.png")
