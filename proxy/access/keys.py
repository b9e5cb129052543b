"""API keys: whose request is this?

A key is looked up by a digest, made with a secret of this process: how long that takes tells
nothing about any key. A header that was good is known again by a dict, which compares 64 bits of
Python's own keyed hash first: its bytes are never compared with those of a guess.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import secrets
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from proxy.errors import SettingsError, Unauthorized
from proxy.installation import COMMAND
from proxy.settings import Settings
from proxy.settings.environment import shown
from proxy.settings.keys import GOOD_KEY_CHARS, ApiKey, joined, parse_key_lines

REREAD_SECONDS = 1.0
_MAX_FILE_BYTES = 16 * 1024 * 1024
_MAX_KEY_BYTES = 512
# A key may be written in many ways (blanks, `BEARER`): no more of them, and no longer ones, are
# known again.
_MAX_PASSED = 10_000
_MAX_PASSED_BYTES = 1024
_BEARER = b"bearer "
# What the engine does not get to see: neither our keys, nor those of a load balancer.
CREDENTIALS = frozenset({b"authorization", b"x-api-key"})

_log = logging.getLogger("proxy.keys")

Stamp = tuple[int, int, int]
"""What changes with a file: its time of change (ns), its size (bytes), its number."""


class Keys:
    """The keys that are good now: those of `API_KEYS` and those of the file."""

    def __init__(self, settings: Settings, *, of_admins: bool = False) -> None:
        """`of_admins`: those of `ADMIN_KEYS`, which are in no file.

        Raises:
            SettingsError: the file cannot be read, or holds what is no key.
        """
        file = None if of_admins else settings.api_keys_file
        self._fixed = settings.admin_keys if of_admins else settings.api_keys
        self._path = Path(file) if file else None
        self._hash = partial(hashlib.blake2b, digest_size=32, key=secrets.token_bytes(32))
        self._by_digest: dict[bytes, tuple[bytes, str]] = {}
        # What has passed: a header's value -> the label of the key in it.
        self._passed_keys: dict[bytes, str] = {}
        self._passed_bearers: dict[bytes, str] = {}
        self.all: tuple[ApiKey, ...] = ()
        self.when_changed: Callable[[], None] = lambda: None
        """Called each time other keys are good than before."""
        self._stamp = _stamp_of(self._path) if self._path else None
        self._take(self._read())

    def owner(self, named: Mapping[bytes, bytes]) -> str:
        """The label of the key in a request's headers. `x-api-key` is looked at first, as
        `Authorization` may be that of a load balancer in front of us; one good key is enough.

        Raises:
            Unauthorized: it has none, or one that is not known.
        """
        key, bearer = named.get(b"x-api-key"), named.get(b"authorization")
        if key is None:
            label = None if bearer is None else self._passed_bearers.get(bearer)
        else:
            label = self._passed_keys.get(key)
        if label:
            return label
        if bearer is not None and bearer[:7].lower() != _BEARER:
            bearer = None
        if key is not None and (label := self._label_of(key.strip())) is not None:
            _remember(self._passed_keys, key, label)
            return label
        if bearer is not None and (label := self._label_of(bearer[7:].strip())) is not None:
            _remember(self._passed_bearers, bearer, label)
            return label
        if key is None and bearer is None:
            raise Unauthorized(
                "This server needs an API key. Send it as Authorization: Bearer KEY, or as "
                "x-api-key: KEY."
            )
        raise Unauthorized("This API key is not one of this server's.")

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(key.label for key in self.all)

    async def reread(self) -> None:
        """Follow the file, for good. What is wrong with it is told once for each change; the keys
        that were good before stay so."""
        while self._path is not None:
            await asyncio.sleep(REREAD_SECONDS)
            stamp = await asyncio.to_thread(_stamp_of, self._path)
            if stamp == self._stamp:
                continue
            self._stamp = stamp
            try:
                keys = await asyncio.to_thread(self._read)
            except SettingsError as error:
                _log.error("the keys stay as they were: %s", error)
                continue
            self._take(keys)
            _log.info("API_KEYS_FILE was read again: %d keys are good now", len(keys))
            self.when_changed()

    def _read(self) -> tuple[ApiKey, ...]:
        if self._path is None:
            return self._fixed
        name = f"API_KEYS_FILE={shown(str(self._path))}"
        try:
            # A pipe would be waited for.
            if not self._path.is_file() or self._path.stat().st_size > _MAX_FILE_BYTES:
                raise SettingsError(f"{name}: it is no file; allowed is one of up to 16 MiB")
            return joined(self._fixed, parse_key_lines(self._path.read_text("utf-8-sig")))
        except OSError as error:
            raise SettingsError(f"{name}: {error.strerror}; allowed is a readable file") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{name}: allowed is a text in UTF-8") from None
        except ValueError as error:
            raise SettingsError(f"{name}: {error}") from None

    def _take(self, keys: tuple[ApiKey, ...]) -> None:
        self.all = keys
        digests = ((self._hash(each.key.encode()).digest(), each.label) for each in keys)
        self._by_digest = {digest: (digest, label) for digest, label in digests}
        self._passed_keys, self._passed_bearers = {}, {}

    def _label_of(self, presented: bytes) -> str | None:
        if not presented or len(presented) > _MAX_KEY_BYTES:
            return None
        digest = self._hash(presented).digest()
        stored, label = self._by_digest.get(digest, (b"", None))
        return label if hmac.compare_digest(stored, digest) else None


def _remember(passed: dict[bytes, str], value: bytes, label: str) -> None:
    if len(value) > _MAX_PASSED_BYTES:
        return
    if len(passed) >= _MAX_PASSED:
        passed.clear()
    passed[value] = label


def warnings_about_keys(settings: Settings, keys: Iterable[ApiKey]) -> tuple[str, ...]:
    """What an operator should know before strangers find out."""
    keys = tuple(keys)
    warnings = []
    if not settings.needs_key and not is_loopback(settings.host):
        warnings.append(
            f"There is no API key, and HOST={settings.host} is not this machine alone: whoever"
            f" reaches port {settings.port} may use the model. `{COMMAND} keys` makes a key for"
            " API_KEYS."
        )
    if settings.needs_key and not keys:
        warnings.append("API_KEYS_FILE holds no key yet: every request gets 401 until it does.")
    named = settings.key_limits.by_label if settings.key_limits is not None else {}
    if keys and (strangers := sorted(named.keys() - {each.label for each in keys})):
        warnings.append(f"KEY_LIMITS names who has no key: {', '.join(strangers)}.")
    short = [each.label for each in (*keys, *settings.admin_keys) if len(each.key) < GOOD_KEY_CHARS]
    if short:
        text = f"These keys are so short that they can be guessed: {', '.join(short)}. "
        warnings.append(f"{text}`{COMMAND} keys` makes a good one.")
    return tuple(warnings)


def is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _stamp_of(path: Path) -> Stamp | None:
    """None where there is no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
