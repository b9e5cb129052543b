"""What is done about the media URLs of a request before the engine sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from time import monotonic
from traceback import clear_frames
from typing import TYPE_CHECKING

from proxy.errors import MediaRefused
from proxy.json_scan import in_slices
from proxy.media.memory import MediaMemory, Share
from proxy.media.policy import Policy, Target
from proxy.media.url_scan import find_urls, might_contain_urls, replace_urls
from proxy.settings import Settings
from proxy.tasks import spawn
from proxy.telemetry.record import Record

if TYPE_CHECKING:  # it imports aiohttp: a quarter of a second of CPU, 9 MB
    from proxy.media.fetch import Fetcher, File

# The limits are of a prompt; some routes take several.
_MIN_MAX_URLS = 32


@dataclass(slots=True)
class _Wanted:
    """What a URL leads to, the first name it has in the body, and how often it stands there."""

    target: Target
    param: str
    times: int = 0


class MediaResolver:
    """Judges the URLs in bodies and, with a fetcher, puts what they lead to in their place."""

    is_needed = staticmethod(might_contain_urls)
    """Whether there may be anything to do; quick, and mostly no."""

    def __init__(
        self,
        policy: Policy,
        make_fetcher: Callable[[], Fetcher] | None,
        *,
        max_urls: int,
        max_body_bytes: int,
        memory_bytes: int,
    ) -> None:
        """`make_fetcher` is called in a thread, for the first URL that is to be fetched."""
        self._policy = policy
        self._make_fetcher = make_fetcher
        self._fetcher: asyncio.Task[Fetcher] | None = None
        self._max_urls = max_urls
        self._max_body_bytes = max_body_bytes
        self.memory = MediaMemory(memory_bytes, max_body_bytes)

    async def resolve(
        self, route: str, body: bytes | bytearray, record: Record
    ) -> tuple[Sequence[bytes | memoryview], Callable[[], None]] | None:
        """The body that the engine is to get, in pieces, and what gives back their memory.

        None where it is the client's own body.

        Raises:
            MediaRefused, MediaUnavailable: a URL is not for fetching, or leads to nothing.
        """
        scan = await in_slices(find_urls(route, body))
        wanted: dict[str, _Wanted] = {}
        for number, span in enumerate(scan.urls):
            target = self._policy.target(span.url, span.param)
            if target is None:
                continue
            if number >= self._max_urls:
                limit = f"{self._max_urls} in a request are fetched"
                text = f"{span.param} is one URL too many: {limit}"
                text = f"{text} (IMAGE_LIMIT, VIDEO_LIMIT, AUDIO_LIMIT)."
                raise MediaRefused(text, param=span.param)
            wanted.setdefault(span.url, _Wanted(target, span.param)).times += 1
        if not wanted:
            return None
        if self._make_fetcher is None:
            await asyncio.gather(
                *(self._policy.addresses(one.target, one.param) for one in wanted.values())
            )
            return None
        started = monotonic()
        if self._fetcher is None:
            self._fetcher = spawn(asyncio.to_thread(self._make_fetcher), name="media fetcher")
        fetcher = await asyncio.shield(self._fetcher)
        share = self.memory.share(self._max_body_bytes - len(scan.body))
        with ExitStack() as stack:
            stack.enter_context(closing(share))
            try:
                files = await _fetch_together(fetcher, wanted, share)
            finally:
                record.media_seconds = monotonic() - started
            record.media_bytes = sum(file.size for file in files.values())
            pieces = replace_urls(scan, {url: file.as_data_url() for url, file in files.items()})
            return pieces, stack.pop_all().close


def media_resolver(settings: Settings, *, allow_local_files: bool = False) -> MediaResolver:
    """What the settings ask for."""
    policy = Policy(
        settings.allowed_media_domains,
        allow_private=settings.allow_private_media,
        allow_local_files=allow_local_files,
    )

    def make_fetcher() -> Fetcher:
        from proxy.media.fetch import Fetcher, FetchLimits

        times = (settings.media_fetch_timeout, settings.request_timeout)
        limits = FetchLimits(
            int(settings.media_fetch_max_mb * 1024 * 1024),
            min(filter(None, times), default=None),
            settings.media_fetch_concurrency,
        )
        return Fetcher(policy, limits)

    most = settings.image_limit + settings.video_limit + settings.audio_limit
    return MediaResolver(
        policy,
        make_fetcher if settings.sidecar_fetches_media else None,
        max_urls=max(most, _MIN_MAX_URLS),
        max_body_bytes=settings.max_body_bytes,
        memory_bytes=settings.media_memory_bytes,
    )


async def _fetch_together(
    fetcher: Fetcher, wanted: dict[str, _Wanted], share: Share
) -> dict[str, File]:
    """All at once, each one once; the first that fails ends the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = {
                url: group.create_task(fetcher.fetch(one.target, one.param, share, one.times))
                for url, one in wanted.items()
            }
    except ExceptionGroup as failed:
        # Failures hold the frames in which they arose, and those what has come so far, in circles:
        # it would lie there until a collection of garbage.
        for failure in failed.exceptions:
            _clear_frames(failure)
        tasks.clear()
        raise failed.exceptions[0] from None
    return {url: task.result() for url, task in tasks.items()}


def _clear_frames(failure: BaseException | None) -> None:
    while failure is not None:
        clear_frames(failure.__traceback__)
        failure = failure.__context__
