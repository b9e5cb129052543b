"""The memory that fetched media may take, for all requests together."""

from __future__ import annotations

import asyncio


class MediaMemory:
    """Bytes that are waited for when others hold them.

    Requests that each hold a part and wait for more could wait for one another. So the oldest one
    never waits: what one request may take at most is kept free for it, and all others share the
    rest. When the oldest has gone the next one takes its place; its part of the rest is free then.
    """

    def __init__(self, size: int, most_per_request: int) -> None:
        """`most_per_request` is no more than `size`; both in bytes."""
        self._shared = size - most_per_request
        self._shares: dict[Share, None] = {}  # the oldest first
        self._given_back = asyncio.Event()

    @property
    def held(self) -> int:
        return sum(share.held for share in self._shares)

    def share(self, body_bytes: int) -> Share:
        """For one request whose media may add so much to its body; the latest share of all."""
        share = Share(self, body_bytes)
        self._shares[share] = None
        return share

    def has_room(self, share: Share, size: int) -> bool:
        oldest = next(iter(self._shares))
        return share is oldest or self.held - oldest.held + size <= self._shared

    async def change(self) -> None:
        """Wait until some request has given back its share."""
        await self._given_back.wait()

    def close(self, share: Share) -> None:
        self._shares.pop(share, None)
        self._given_back.set()
        self._given_back = asyncio.Event()


class Share:
    """What one request holds, from `MediaMemory.share` until `close`."""

    def __init__(self, memory: MediaMemory, body_bytes: int) -> None:
        self._memory = memory
        self._body_bytes_left = body_bytes
        self.held = 0

    async def take(self, size: int, times: int) -> bool:
        """Wait for room for `size` bytes, which the body is to have so many times.

        Returns False where they make the body too large.
        """
        self._body_bytes_left -= size * times
        if self._body_bytes_left < 0:
            return False
        while not self._memory.has_room(self, size):
            await self._memory.change()
        self.held += size
        return True

    def close(self) -> None:
        """Give all of it back; once more does nothing."""
        self._memory.close(self)
