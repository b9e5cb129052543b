"""Which media a request may point at, and what fetches them."""

from __future__ import annotations

from typing import Annotated

from proxy.settings.values import (
    Count,
    Group,
    Mebibytes,
    MediaFetch,
    Timeout,
    from_text,
    matching,
    split_names,
    variable,
)

# What can stand in a URL between `//` and `/`, without a port.
_Host = Annotated[
    str,
    matching(
        r"[\w-]+(\.[\w-]+)*|[0-9A-Fa-f:.]+", "the name or the address of a host, without port"
    ),
]
_Hosts = Annotated[tuple[_Host, ...], from_text(split_names)]


class MediaSettings(Group, title="Media"):
    """Which media a request may point at, and what fetches them."""

    allowed_media_domains: _Hosts = variable(
        "ALLOWED_MEDIA_DOMAINS",
        default=(),
        unit="hosts",
        effect="Hosts that media URLs may name, comma-separated, each without its subdomains.",
        unset="every public one",
        example="images.example.com,cdn.example.com",
    )
    allow_private_media: bool = variable(
        "ALLOW_PRIVATE_MEDIA",
        default=False,
        effect="Let media URLs lead to addresses that are not public.",
        danger="A client can then reach this machine, your network and the cloud's metadata",
    )
    media_fetch: MediaFetch | None = variable(
        "MEDIA_FETCH",
        effect="What fetches media URLs. `proxy`: the sidecar; `engine`: the sidecar only checks "
        "them, and vLLM fetches.",
        unset="`engine` with `ALLOWED_MEDIA_DOMAINS`, else `proxy`",
        example="proxy",
    )
    media_fetch_max_mb: Mebibytes = variable(
        "MEDIA_FETCH_MAX_MB",
        default=64,
        unit="MiB",
        effect="Maximum size of the file behind one media URL.",
    )
    media_fetch_timeout: Timeout = variable(
        "MEDIA_FETCH_TIMEOUT",
        default=30,
        unit="s",
        effect="Maximum time to fetch one media URL, the wait for its turn included. It is never "
        "longer than `REQUEST_TIMEOUT`. 0: no limit.",
    )
    media_fetch_concurrency: Count = variable(
        "MEDIA_FETCH_CONCURRENCY",
        default=32,
        unit="URLs",
        effect="Media URLs that are fetched at a time.",
    )
    media_memory_mb: Mebibytes | None = variable(
        "MEDIA_MEMORY_MB",
        unit="MiB",
        effect="Fetched media, as base64, that all requests together hold before the engine has "
        "read them. More waits, within `MEDIA_FETCH_TIMEOUT`. At least `MAX_BODY_MB`.",
        unset="twice `MAX_BODY_MB`",
        example="512",
    )

    @property
    def sidecar_fetches_media(self) -> bool:
        """Where hosts are listed, vLLM may fetch from them, unless MEDIA_FETCH says otherwise."""
        if self.media_fetch is None:
            return not self.allowed_media_domains
        return self.media_fetch is MediaFetch.PROXY
