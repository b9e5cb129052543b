"""Which media a request may point at, and who fetches them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field

from proxy.settings.values import (
    Count,
    Group,
    Mebibytes,
    MediaFetch,
    Timeout,
    split_names,
    variable,
)

# What can stand in a URL between `//` and `/`, without a port.
_Host = Annotated[str, Field(pattern=r"^([\w-]+(\.[\w-]+)*|[0-9A-Fa-f:.]+)$")]
_Hosts = Annotated[tuple[_Host, ...], BeforeValidator(split_names)]


class MediaSettings(Group):
    """Which media a request may point at, and who fetches them."""

    allowed_media_domains: _Hosts = variable(
        "ALLOWED_MEDIA_DOMAINS", default=(), effect="Hosts that media URLs may name."
    )
    allow_private_media: bool = variable(
        "ALLOW_PRIVATE_MEDIA",
        default=False,
        effect="Let media URLs lead to addresses that are not public.",
    )
    media_fetch: MediaFetch | None = variable(
        "MEDIA_FETCH",
        effect="`proxy`: the sidecar fetches media URLs; `engine`: it checks them, vLLM fetches.",
    )
    media_fetch_max_mb: Mebibytes = variable(
        "MEDIA_FETCH_MAX_MB", default=64, effect="Largest file behind one media URL, MiB."
    )
    media_fetch_timeout: Timeout = variable(
        "MEDIA_FETCH_TIMEOUT",
        default=30,
        effect="Seconds that fetching one media URL may take; 0 is any time.",
    )
    media_fetch_concurrency: Count = variable(
        "MEDIA_FETCH_CONCURRENCY", default=32, effect="Media URLs that are fetched at a time."
    )
    media_memory_mb: Mebibytes | None = variable(
        "MEDIA_MEMORY_MB", effect="Fetched media that all requests hold at a time, MiB."
    )

    @property
    def sidecar_fetches_media(self) -> bool:
        """Whoever names the hosts he trusts has vLLM fetch from them, unless he says otherwise."""
        if self.media_fetch is None:
            return not self.allowed_media_domains
        return self.media_fetch is MediaFetch.PROXY
