"""The model's files, fetched in a child process that prints one JSON event per line.

    python3 -m proxy.engine.model.download REPO [--revision REVISION]

    plan, progress..., done      exit code 0
    done                         exit code 0: served from the cache (offline, or no hub)
    failed                       exit code 1

The structs and `decode_event` are for the parent; huggingface_hub is imported only in the
child, since it reads its environment (HF_TOKEN, HF_HOME, HF_ENDPOINT...) when imported.
"""

from __future__ import annotations

import argparse
import glob
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import msgspec

from proxy.engine.model.files import choose_files
from proxy.engine.model.hub_cache import RepoCache, SnapshotSize, discard_open_partials
from proxy.engine.model.hub_failure import (
    Asked,
    explain,
    left_out,
    no_files,
    no_room,
    not_cached,
    stalled,
    unanswered,
)
from proxy.engine.model.patience import Patience, watch
from proxy.errors import Cause

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# hub's first call has no time limit of its own: a hub that accepts and says nothing would
# hold us for ever.
FIRST_ANSWER_SECONDS = 20.0
# All questions before the first byte: a request per file, each retried up to five times.
METADATA_SECONDS = 120.0
# Longer than hub's own five retries of 10 s each, so that its error, which says more,
# comes first; and long enough for 10 MiB (its write size) over a slow line.
STALL_SECONDS = 180.0


class Plan(msgspec.Struct, tag_field="event", tag="plan", frozen=True):
    """What there is to do; said before a byte is fetched."""

    files: int
    bytes_total: int
    bytes_to_fetch: int
    bytes_free: int
    revision: str


class Progress(msgspec.Struct, tag_field="event", tag="progress", frozen=True):
    """Bytes of this snapshot on the disk; never falls, ends at `Plan.bytes_total`."""

    bytes: int


class Done(msgspec.Struct, tag_field="event", tag="done", frozen=True):
    path: str
    revision: str


class Failed(msgspec.Struct, tag_field="event", tag="failed", frozen=True):
    """The fields of `EngineFailure`."""

    cause: Cause
    message: str
    remedy: str
    permanent: bool


Event = Plan | Progress | Done | Failed
Emit = Callable[[Event], None]

_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def decode_event(line: bytes) -> Event | None:
    """The event in a line of the child's stdout, None where the line is not one of ours."""
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError:
        return None


class Limits(msgspec.Struct, frozen=True):
    metadata_seconds: float = METADATA_SECONDS
    stall_seconds: float = STALL_SECONDS


class Fetch:
    """One snapshot's way from the hub into the cache."""

    def __init__(self, asked: Asked, limits: Limits, emit: Emit) -> None:
        self._asked = asked
        self._limits = limits
        self._emit = emit
        self._cache = RepoCache(asked.cache, asked.repo)

    def run(self) -> Done:
        self._cache.remove_leftovers()
        try:
            plan, files = self._plan()
        # httpx's errors come through unwrapped and have another root in each hub version.
        except Exception as error:
            return self._from_cache(error)
        self._emit(plan)
        if plan.bytes_to_fetch > plan.bytes_free:
            raise no_room(self._asked, plan.bytes_to_fetch, plan.bytes_free)
        return self._fetch(plan, files)

    def _plan(self) -> tuple[Plan, dict[str, tuple[Path, int]]]:
        # Slow imports are not the hub's silence.
        from huggingface_hub import HfApi

        api = HfApi()
        patience = Patience(self._limits.metadata_seconds)

        def check() -> None:
            if patience.expired():
                raise unanswered(self._asked, patience.seconds)

        return watch(partial(self._ask_hub, api), check, patience)

    def _ask_hub(self, api: HfApi) -> tuple[Plan, dict[str, tuple[Path, int]]]:
        """Names and commit first, then hub's own dry run over the files chosen."""
        from huggingface_hub import snapshot_download

        asked = self._asked
        # Its own time-out says more than ours, so it has to come first.
        timeout = min(FIRST_ANSWER_SECONDS, self._limits.metadata_seconds / 2)
        info = api.model_info(asked.repo, revision=asked.revision, timeout=timeout)
        names = choose_files([sibling.rfilename for sibling in info.siblings or ()])
        if not names or info.sha is None:
            raise no_files(asked)
        found = snapshot_download(
            asked.repo,
            revision=info.sha,
            cache_dir=asked.cache,
            allow_patterns=[glob.escape(name) for name in names],
            dry_run=True,
        )
        files = {file.filename: (Path(file.local_path), file.file_size or 0) for file in found}
        plan = Plan(
            files=len(found),
            bytes_total=sum(size for _, size in files.values()),
            bytes_to_fetch=sum(file.file_size or 0 for file in found if not file.is_cached),
            bytes_free=self._cache.free_bytes(),
            revision=info.sha,
        )
        return plan, files

    def _from_cache(self, error: Exception) -> Done:
        """A complete snapshot outlives the hub: a restart must not depend on it.

        As in hub itself, only a revision that the hub denies is not looked up.
        """
        from huggingface_hub.errors import OfflineModeIsEnabled, RevisionNotFoundError

        failure = explain(error, self._asked)
        if isinstance(error, RevisionNotFoundError):
            raise failure from error
        offline = isinstance(error, OfflineModeIsEnabled)
        snapshot = self._cache.find_snapshot(self._asked.revision)
        missing = self._cache.missing_files(snapshot) if snapshot else []
        if snapshot is None or missing:
            raise (not_cached(self._asked, missing) if offline else failure) from error
        if not offline:
            _warn(f"{failure.message}; serving the complete snapshot {snapshot.name} of the cache")
        return Done(path=str(snapshot), revision=snapshot.name)

    def _fetch(self, plan: Plan, files: dict[str, tuple[Path, int]]) -> Done:
        from huggingface_hub import snapshot_download

        size = SnapshotSize(self._cache.blobs, list(files.values()))
        patience = Patience(self._limits.stall_seconds)
        fetch = partial(
            snapshot_download,
            self._asked.repo,
            revision=plan.revision,
            cache_dir=self._asked.cache,
            allow_patterns=[glob.escape(name) for name in files],
        )
        report = self._reporter(size, patience)
        snapshot = watch(fetch, report, patience)
        # hub returns what it has, without a word, when it cannot list the files again.
        missing = [name for name, (path, _) in files.items() if not path.exists()]
        if missing:
            raise left_out(self._asked, missing)
        report()
        self._cache.point_ref(self._asked.revision, plan.revision)
        return Done(path=snapshot, revision=plan.revision)

    def _reporter(self, size: SnapshotSize, patience: Patience) -> Callable[[], None]:
        reported = -1

        def report() -> None:
            nonlocal reported
            now = size.measure()
            if now > reported:
                reported = now
                patience.renew()
                self._emit(Progress(bytes=now))
            elif patience.expired():
                raise stalled(self._asked, patience.seconds)

        return report


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr, flush=True)


def _claim_stdout() -> Emit:
    """Keep stdout for events: whatever a library prints goes to stderr."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def emit(event: Event) -> None:
        out.write(msgspec.json.encode(event) + b"\n")
        out.flush()

    return emit


def _die(number: int, _frame: FrameType | None) -> None:
    """End by the signal, as without this, but leave no partial file on the volume."""
    discard_open_partials()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _end_at_once(code: int) -> NoReturn:
    """Exit without waiting for hub's threads, which may hang in a socket for minutes."""
    discard_open_partials()
    sys.stderr.flush()
    os._exit(code)


def _asked(repo: str, revision: str | None) -> Asked:
    from huggingface_hub import constants, get_token

    has_token = False
    # HF_HOME/token cannot be read: the first request fails on it too, and is explained.
    with suppress(OSError):
        has_token = get_token() is not None
    return Asked(
        repo=repo,
        revision=revision or constants.DEFAULT_REVISION,
        endpoint=constants.ENDPOINT,
        cache=Path(constants.HF_HUB_CACHE).expanduser(),
        has_token=has_token,
    )


def _parse(arguments: Sequence[str] | None) -> tuple[str, str | None, Limits]:
    parser = argparse.ArgumentParser(prog="python3 -m proxy.engine.model.download")
    parser.add_argument("repo")
    parser.add_argument("--revision")
    parser.add_argument("--metadata-seconds", type=float, default=METADATA_SECONDS, help="tests")
    parser.add_argument("--stall-seconds", type=float, default=STALL_SECONDS, help="tests")
    given = parser.parse_args(arguments)
    return given.repo, given.revision or None, Limits(given.metadata_seconds, given.stall_seconds)


def main(arguments: Sequence[str] | None = None) -> int:
    repo, revision, limits = _parse(arguments)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    signal.signal(signal.SIGTERM, _die)
    emit = _claim_stdout()
    asked = _asked(repo, revision)
    try:
        emit(Fetch(asked, limits, emit).run())
    except Exception as error:
        failure = explain(error, asked)
        emit(Failed(failure.cause, failure.message, failure.remedy, failure.permanent))
        _end_at_once(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
