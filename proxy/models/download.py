"""The model's files, fetched in a child process that prints one JSON event per line.

    python3 -m proxy.models.download REPO [--revision REVISION] [--check]

    plan, progress..., done      exit code 0
    plan                         exit code 0: with --check, which fetches no weights
    done                         exit code 0: served from the cache (offline, or no hub), or
                                 from what the platform has put on this machine
    failed                       exit code 1

A process of its own, since huggingface_hub reads its environment (HF_TOKEN, HF_HOME,
HF_ENDPOINT...) when imported, and its threads cannot be stopped.
"""

from __future__ import annotations

import argparse
import glob
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import msgspec

from proxy.models.events import Done, Emit, Failed, Plan, Progress, claim_stdout
from proxy.models.hub_cache import RepoCache, SnapshotSize, discard_open_partials, write_problem
from proxy.models.hub_failure import (
    Asked,
    explain,
    left_out,
    no_files,
    no_room,
    not_cached,
    not_writable,
    stalled,
    unanswered,
)
from proxy.models.patience import Patience, watch
from proxy.models.platform_cache import RUNPOD_CACHE, find_snapshot
from proxy.settings.environment import without_secrets
from proxy.vllm.description import Description
from proxy.vllm.files import choose_files, weight_files

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# hub's first call has no time limit of its own: a hub that accepts and says nothing would
# hold us for ever.
FIRST_ANSWER_SECONDS = 20.0
# All questions before the first byte: a request per file, each retried up to five times.
METADATA_SECONDS = 120.0
# The same where a complete snapshot is here: then the hub could only tell of a newer one.
CACHED_METADATA_SECONDS = 8.0
# Longer than hub's own five retries of 10 s each, so that its error, which says more,
# comes first; and long enough for 10 MiB (its write size) over a slow line.
STALL_SECONDS = 180.0


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

    def run(self, *, check: bool = False) -> None:
        """Fetch the snapshot; with `check` only find out whether that would work.

        Raises:
            EngineFailure, or whatever huggingface_hub raises.
        """
        if not check:
            self._cache.remove_leftovers()
        try:
            plan, files = self._plan()
        # httpx's errors come through unwrapped and have another root in each hub version.
        except Exception as error:
            self._emit(self._from_cache(error))
            return
        self._emit(plan)
        if plan.bytes_to_fetch > plan.bytes_free:
            permanent = not self._cache.partial_bytes()  # else some of it will be free again
            raise no_room(self._asked, plan.bytes_to_fetch, plan.bytes_free, permanent=permanent)
        if plan.bytes_to_fetch and (problem := write_problem(self._asked.cache)):
            raise not_writable(self._asked, problem)
        if check:
            return
        if plan.bytes_to_fetch:  # a warm start need not wait for these imports
            from proxy.settings import Settings
            from proxy.vllm.architectures import check_architecture

            # Fetch no weights that vLLM cannot run: our parent finds that out, but a moment later.
            model = Description(self._asked.repo, plan.config)
            check_architecture(model, Settings.load(os.environ))
        self._emit(self._fetch(plan, files))

    def _plan(self) -> tuple[Plan, dict[str, tuple[Path, int]]]:
        # Slow imports are not the hub's silence.
        from huggingface_hub import HfApi

        api = HfApi()
        seconds = self._limits.metadata_seconds
        with suppress(Exception):  # a cache that cannot be read is explained where it is needed
            snapshot = self._cache.find_snapshot(self._asked.revision)
            if snapshot is not None and not self._cache.missing_files(snapshot):
                seconds = min(seconds, CACHED_METADATA_SECONDS)
        patience = Patience(seconds)

        def check() -> None:
            if patience.expired():
                raise unanswered(self._asked, seconds)

        return watch(partial(self._ask_hub, api, seconds), check, patience)

    def _ask_hub(self, api: HfApi, seconds: float) -> tuple[Plan, dict[str, tuple[Path, int]]]:
        """Names and commit first, then hub's own dry run over the files chosen."""
        from huggingface_hub import snapshot_download

        asked = self._asked
        # Its own time-out says more than ours, so it has to come first.
        timeout = min(FIRST_ANSWER_SECONDS, seconds / 2)
        info = api.model_info(asked.repo, revision=asked.revision, timeout=timeout)
        names = choose_files([sibling.rfilename for sibling in info.siblings or ()])
        if not names or info.sha is None:
            raise no_files(asked)
        offered = snapshot_download(
            asked.repo,
            revision=info.sha,
            cache_dir=asked.cache,
            allow_patterns=[glob.escape(name) for name in names],
            dry_run=True,
        )
        files = {file.filename: (Path(file.local_path), file.file_size or 0) for file in offered}
        weights = weight_files(list(files))
        needed = sum(file.file_size or 0 for file in offered if not file.is_cached)
        free = self._cache.free_bytes()
        readable = "config.json" in files and needed <= free
        plan = Plan(
            files=len(offered),
            bytes_total=sum(size for _, size in files.values()),
            bytes_to_fetch=needed,
            bytes_free=free,
            revision=info.sha,
            weights_bytes=sum(files[name][1] for name in weights),
            config=self._cache.config(info.sha) if readable else None,
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
            text = f"{failure.message}; serving the complete snapshot {snapshot.name} of the cache"
            print(f"warning: {text}", file=sys.stderr, flush=True)
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

        snapshot = watch(fetch, report, patience)
        # hub returns what it has, without a word, when it cannot list the files again.
        missing = [name for name, (path, _) in files.items() if not path.exists()]
        if missing:
            raise left_out(self._asked, missing)
        report()
        self._cache.point_ref(self._asked.revision, plan.revision)
        return Done(path=snapshot, revision=plan.revision)


def _die(number: int, _frame: FrameType | None) -> None:
    """End by the signal, as without this, but leave no partial file on the volume."""
    discard_open_partials()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _asked(repo: str, revision: str | None) -> Asked:
    from huggingface_hub import constants, get_token

    has_token = False
    # HF_HOME/token cannot be read: the first request fails on it too, and is explained.
    with suppress(OSError):
        has_token = get_token() is not None
    return Asked(
        repo=repo,
        revision=revision or constants.DEFAULT_REVISION,
        endpoint=without_secrets(constants.ENDPOINT),
        cache=Path(constants.HF_HUB_CACHE).expanduser(),
        has_token=has_token,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python3 -m proxy.models.download")
    parser.add_argument("repo")
    parser.add_argument("--revision")
    parser.add_argument("--check", action="store_true", help="fetch no weights")
    parser.add_argument("--platform-cache", type=Path, default=RUNPOD_CACHE, help="tests")
    parser.add_argument("--metadata-seconds", type=float, default=METADATA_SECONDS, help="tests")
    parser.add_argument("--stall-seconds", type=float, default=STALL_SECONDS, help="tests")
    given = parser.parse_args(arguments)
    limits = Limits(given.metadata_seconds, given.stall_seconds)
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    signal.signal(signal.SIGTERM, _die)
    emit = claim_stdout()
    asked = _asked(given.repo, given.revision)
    if asked.cache != given.platform_cache:
        snapshot = find_snapshot(given.platform_cache, given.repo, given.revision)
        if snapshot is not None:
            print(f"the model is already on this machine: {snapshot}", file=sys.stderr, flush=True)
            emit(Done(path=str(snapshot), revision=snapshot.name))
            return 0
    try:
        Fetch(asked, limits, emit).run(check=given.check)
    except Exception as error:
        failure = explain(error, asked)
        emit(Failed(failure.cause, failure.message, failure.remedy, failure.permanent))
        # Do not wait for hub's threads, which may hang in a socket for minutes.
        discard_open_partials()
        sys.stderr.flush()
        os._exit(1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
