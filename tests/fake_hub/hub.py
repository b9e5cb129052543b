"""The hub: its repositories, the faults in force, and what was asked so far."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

from tests.fake_hub.faults import Fault
from tests.fake_hub.repository import HubFile


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class FakeHub:
    """The repositories below `root`, the faults in force, and what was asked so far."""

    root: Path
    faults: list[Fault] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    closing: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def cdn(self) -> str:
        """Another host by name, as at the real hub: there hub sends no token."""
        return f"http://localhost:{self.port}"

    def files(self, repo: str) -> dict[str, HubFile] | None:
        folder = self.root / repo
        if not folder.is_dir():
            return None
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): HubFile(path) for path in paths}

    def commit(self, repo: str) -> str:
        files = self.files(repo) or {}
        listing = "\n".join(f"{name} {file.git_oid}" for name, file in files.items())
        return hashlib.sha1(listing.encode()).hexdigest()

    def count(self, pattern: str) -> int:
        """How many requests "METHOD /path" match `pattern`."""
        with self._lock:
            asked = [f"{request.method} {request.path}" for request in self.requests]
        return sum(fnmatchcase(line, pattern) for line in asked)

    def note(self, request: Request) -> list[Fault]:
        """Remember `request`; the faults that strike it."""
        line = f"{request.method} {request.path}"
        with self._lock:
            self.requests.append(request)
            struck = [fault for fault in self.faults if fnmatchcase(line, fault.match)]
            for fault in [fault for fault in struck if fault.times]:
                fault.times -= 1
                if not fault.times:
                    self.faults.remove(fault)
        return struck
