"""One repository's folder in the cache of huggingface_hub.

models--org--name/
    blobs/<etag>                        a finished file
    blobs/<etag>.<8 hex>.incomplete     one attempt at it, of one process
    refs/<revision>                     the commit a branch or tag stands for
    snapshots/<commit>/<name>           links to blobs
.locks/models--org--name/<etag>.lock    held (flock) by whoever fetches that file
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from proxy.vllm.description import ModelConfig, read_config
from proxy.vllm.files import choose_files, weight_files

# A leftover is removed when nobody holds its lock and nobody wrote to it for this long.
# The pause is for file systems where flock always succeeds (Lustre, some NFS mounts):
# hub gives up on a silent socket after 10 s, so a living download has written since.
_IDLE_SECONDS = 15.0
# Without a lock that tells anything, only age does.
_ABANDONED_SECONDS = 3600.0
# Older hubs wrote `<etag>.incomplete` and went on from it: such files are not leftovers.
_LEFTOVER = re.compile(r"(?P<etag>[^.]+)\.[0-9a-f]{8}\.incomplete")
_STAT_BLOCK_BYTES = 512
_INDICES = "*.safetensors.index.json"


class RepoCache:
    """Where the files of `repo` lie, finished or not."""

    def __init__(self, cache: Path, repo: str) -> None:
        name = "--".join(["models", *repo.split("/")])
        self.cache = cache
        self.repo = repo
        self.folder = cache / name
        self.blobs = self.folder / "blobs"
        self._locks = cache / ".locks" / name

    def free_bytes(self) -> int:
        """Free space where the cache is, or where it is going to be."""
        return shutil.disk_usage(_existing(self.cache)).free

    def remove_leftovers(self) -> int:
        """Delete partial files of dead processes; the number of bytes won back.

        hub names each attempt anew and never looks at the old ones again, so a process that
        was killed leaves up to eight partial shards that only eat the volume.
        """
        freed = 0
        for path in self.blobs.glob("*.incomplete"):
            name = _LEFTOVER.fullmatch(path.name)
            if name is None:
                continue
            # Gone already, or a volume that cannot be written: neither stops a download.
            with suppress(OSError):
                status = path.stat()
                idle = time.time() - status.st_mtime
                lock = self._locks / f"{name['etag']}.lock"
                if idle > _ABANDONED_SECONDS or (idle > _IDLE_SECONDS and _is_free(lock)):
                    path.unlink()
                    freed += status.st_size
        return freed

    def partial_bytes(self) -> int:
        """What unfinished files take: those of others, and those too young to be taken for dead."""
        return sum(size for _, size in partial_sizes(self.blobs))

    def find_snapshot(self, revision: str) -> Path | None:
        """The cached snapshot of `revision`, complete or not, without asking the hub."""
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

        try:
            # No pattern matches: hub is to find the folder, `missing_files` judges it.
            snapshot = snapshot_download(
                self.repo,
                revision=revision,
                cache_dir=self.cache,
                local_files_only=True,
                allow_patterns=[],
            )
        except (LocalEntryNotFoundError, HFValidationError):
            return None
        return Path(snapshot)

    def missing_files(self, snapshot: Path) -> list[str]:
        """What vLLM would miss in `snapshot`, as far as the disk can tell."""
        from huggingface_hub import get_cached_repo_tree
        from huggingface_hub.errors import CachedRepoTreeNotFoundError

        try:
            tree = get_cached_repo_tree(self.repo, revision=snapshot.name, cache_dir=self.cache)
        except CachedRepoTreeNotFoundError:
            return missing_by_index(snapshot)
        wanted = choose_files([file.path for file in tree])
        return [name for name in wanted if not (snapshot / name).exists()]

    def config(self, commit: str) -> ModelConfig | None:
        """What config.json says; of all files it is the first to be fetched, if it is not here."""
        from huggingface_hub import hf_hub_download

        # Whatever is wrong here comes again when all files are fetched, and is explained then.
        with suppress(Exception):
            file = hf_hub_download(self.repo, "config.json", revision=commit, cache_dir=self.cache)
            return read_config(Path(file))
        return None

    def point_ref(self, revision: str, commit: str) -> None:
        """Make `revision` stand for `commit`, as hub does, but only once all files are there.

        hub moves the ref before it fetches, so that an outage halfway through an update
        would hide the complete snapshot that the ref pointed to before.
        """
        ref = self.folder / "refs" / revision
        # A complete cache on a read-only volume is served without a ref.
        with suppress(OSError):
            if revision == commit or (ref.exists() and ref.read_bytes() == commit.encode()):
                return
            ref.parent.mkdir(parents=True, exist_ok=True)
            new = ref.with_name(f"{ref.name}.{os.getpid()}.new")
            new.write_text(commit)
            new.replace(ref)


def write_problem(folder: Path) -> str | None:
    """Why nothing can be written to a folder that is there, or is going to be; None: it can."""
    try:
        with tempfile.TemporaryFile(dir=_existing(folder)):
            return None
    except OSError as error:
        return error.strerror or type(error).__name__


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.parents) if each.exists())


class SnapshotSize:
    """How many bytes of a snapshot are on the disk, partial files included.

    The disk is asked, not hub's progress bars: those count what came over the wire (xet
    deduplicates and compresses it), differ between hub 1.x and 2.x, and know nothing of a
    file that another process with the same cache is fetching while we wait for its lock.
    Over plain HTTP hub writes in pieces of 10 MiB, so smaller steps are not to be seen.
    """

    def __init__(self, blobs: Path, files: Sequence[tuple[Path, int]]) -> None:
        self.total = sum(size for _, size in files)
        self._blobs = blobs
        self._pending = list(files)
        self._leftovers = dict(partial_sizes(blobs))
        self._most = 0

    def measure(self) -> int:
        """Bytes now; never less than the last time."""
        self._pending = [(path, size) for path, size in self._pending if not path.exists()]
        finished = self.total - sum(size for _, size in self._pending)
        partial = sum(
            size for path, size in partial_sizes(self._blobs) if self._leftovers.get(path) != size
        )
        self._most = max(self._most, min(self.total, finished + partial))
        return self._most


def partial_sizes(blobs: Path) -> list[tuple[Path, int]]:
    """Unfinished files, and what they take on the disk."""
    sizes = []
    for path in blobs.glob("*.incomplete"):
        with suppress(OSError):
            status = path.stat()
            # A writer that fills a file out of order makes it long before it is full.
            on_disk = min(status.st_size, status.st_blocks * _STAT_BLOCK_BYTES)
            sizes.append((path, on_disk))
    return sizes


def discard_open_partials() -> None:
    """Delete the partial files that this process is writing: it is about to end."""
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            target = descriptor.readlink()
            if target.suffix == ".incomplete":
                target.unlink()


def missing_by_index(snapshot: Path) -> list[str]:
    """For caches that no `snapshot_download` of hub >= 1.31 has filled: no list of files."""
    present = [str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.exists()]
    missing = [] if {"config.json", "params.json"} & {*present} else ["config.json"]
    for index in snapshot.glob(_INDICES):
        try:
            shards = _shards(index)
        except ValueError:
            missing.append(index.name)  # as good as not there
        else:
            missing += sorted(shards.difference(present))
    if not weight_files(present):
        missing.append("the weights")
    return missing


def missing_beside_others(folder: Path) -> list[str]:
    """Shards that are not there, of weights of which others are: a copy that was not finished."""
    present = {path.name for path in folder.iterdir()}
    missing = []
    for index in folder.glob(_INDICES):
        with suppress(ValueError):
            shards = _shards(index)
            missing += sorted(shards - present) if shards & present else []
    return missing


def _shards(index: Path) -> set[str]:
    """Raises ValueError."""
    try:
        return set(json.loads(index.read_bytes())["weight_map"].values())
    except (OSError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} cannot be read") from error


def _is_free(lock: Path) -> bool:
    """Whether nobody holds `lock`; also when it does not exist."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP):
            return False
        raise
    finally:
        os.close(descriptor)
    return True
