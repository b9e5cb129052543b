"""A file of a repository, and what the hub says of it."""

from __future__ import annotations

import hashlib
from functools import cached_property, lru_cache
from pathlib import Path

_LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf", ".onnx")


class HubFile:
    """A file of a repository, with the names git and the hub give to its content."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = path.stat().st_size
        self.is_lfs = path.name.endswith(_LFS_SUFFIXES)

    @cached_property
    def sha256(self) -> str:
        return _digest("sha256", b"", self.path, self.path.stat().st_mtime_ns)

    @cached_property
    def git_oid(self) -> str:
        return _digest("sha1", b"blob %d\0" % self.size, self.path, self.path.stat().st_mtime_ns)

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.git_oid

    def tree_entry(self, name: str) -> dict[str, object]:
        entry = {"type": "file", "oid": self.git_oid, "size": self.size, "path": name}
        if not self.is_lfs:
            return entry
        return entry | {"lfs": {"oid": self.sha256, "size": self.size, "pointerSize": 134}}


@lru_cache(maxsize=256)
def _digest(algorithm: str, head: bytes, path: Path, _changed_ns: int) -> str:
    return hashlib.new(algorithm, head + path.read_bytes()).hexdigest()
