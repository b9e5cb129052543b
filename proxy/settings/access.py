"""API keys, their limits, and web pages."""

from __future__ import annotations

from typing import Annotated

from proxy.settings.allowance import KeyLimits, parse_key_limits
from proxy.settings.keys import ApiKey, parse_keys
from proxy.settings.values import Group, Hosts, LocalPath, Origins, from_text, variable


class AccessSettings(Group, title="Access"):
    """Which clients and web pages may ask, and how much."""

    api_keys: Annotated[tuple[ApiKey, ...], from_text(parse_keys)] = variable(
        "API_KEYS",
        default=(),
        unit="keys",
        effect="API keys, as `label:key` or `key`, comma-separated. A request needs one of them; "
        "`python3 -m proxy keys` makes one.",
        unset="without `API_KEYS_FILE` too, no key is needed",
        danger="On a public address anyone may then use the GPU",
        example="alice:sk-d1Xa...,bob:sk-77Qe...",
        secret=True,
    )
    api_keys_file: LocalPath | None = variable(
        "API_KEYS_FILE",
        unit="path",
        effect="File with more keys, one a line. It is read again when it changes.",
        unset="none",
        example="/workspace/keys",
    )
    admin_keys: Annotated[tuple[ApiKey, ...], from_text(parse_keys)] = variable(
        "ADMIN_KEYS",
        default=(),
        unit="keys",
        effect="Keys that may load, unload and pin models, written as `API_KEYS`. They see all of "
        "`/models`, and are no API keys unless they stand in `API_KEYS` too: "
        "[orders for models](endpoints.md#orders-for-models).",
        unset="only this machine may do so",
        example="ops:sk-5Tz0...",
        secret=True,
    )
    key_limits: Annotated[KeyLimits | None, from_text(parse_key_limits)] = variable(
        "KEY_LIMITS",
        unit="limits",
        effect="Limits of each key, of single keys, and of all together. `rpm` is requests a "
        "minute, `tpm` and `tpd` are tokens a minute and a day, `in_flight` is requests at once, "
        "`loads_per_hour` is loads of models that requests bring about: "
        "`rpm=60,tpm=100000; alice: rpm=600; all: rpm=1000`.",
        unset="no limits",
        example="'rpm=60,tpm=100000; alice: rpm=600; all: rpm=1000'",
    )
    cors_origins: Origins = variable(
        "CORS_ORIGINS",
        default=(),
        unit="origins",
        effect="Origins whose web pages may ask, as `https://chat.example.com`, comma-separated. "
        "`*` is every origin.",
        unset="none",
        danger="A key that a web page holds is visible to everyone who opens the page",
        example="https://chat.example.com",
    )
    allowed_hosts: Hosts = variable(
        "ALLOWED_HOSTS",
        default=(),
        unit="hosts",
        effect="Host names by which web pages may ask over plain HTTP where no key is needed, as "
        "`gpu.example.com` or `*.example.com`, comma-separated. `*` is every name. Addresses, "
        "names without a dot and HTTPS need not be listed.",
        unset="none",
        example="gpu.example.com,*.lab.example.com",
    )

    @property
    def needs_key(self) -> bool:
        """Also where the file is empty: then there is no key that would do."""
        return bool(self.api_keys) or self.api_keys_file is not None
