"""Who may ask."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from proxy.settings.allowance import KeyLimits, parse_key_limits
from proxy.settings.keys import ApiKey, parse_keys
from proxy.settings.values import Group, Hosts, Origins, variable


def _read_limits(value: Any) -> Any:
    return parse_key_limits(value) if isinstance(value, str) else value


def _read_keys(value: Any) -> Any:
    return parse_keys(value) if isinstance(value, str) else value


class AccessSettings(Group):
    """Who may ask."""

    api_keys: Annotated[tuple[ApiKey, ...], BeforeValidator(_read_keys)] = variable(
        "API_KEYS", default=(), effect="Keys of which one is needed, comma-separated.", secret=True
    )
    api_keys_file: str | None = variable("API_KEYS_FILE", effect="A file with more keys.")
    key_limits: Annotated[KeyLimits | None, BeforeValidator(_read_limits)] = variable(
        "KEY_LIMITS", effect="What each key, some keys, or all together may use."
    )
    cors_origins: Origins = variable(
        "CORS_ORIGINS", default=(), effect="Origins whose web pages may ask, comma-separated; or *."
    )
    allowed_hosts: Hosts = variable(
        "ALLOWED_HOSTS",
        default=(),
        effect="Names by which web pages may ask over plain HTTP, comma-separated; or *.",
    )

    @property
    def needs_key(self) -> bool:
        """Also where the file is empty: nobody has a key then."""
        return bool(self.api_keys) or self.api_keys_file is not None
