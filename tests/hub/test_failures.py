"""Each way a download fails has its own cause and its own sentence."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from proxy.errors import Cause
from proxy.models.events import Failed
from proxy.models.hub_failure import Asked, explain
from tests.fake_hub import FakeHub, Fault, Kind
from tests.hub.child import download
from tests.hub.conftest import SMALL
from tests.patience import on_a_clock

pytestmark = pytest.mark.hub

TOKEN = {"HF_TOKEN": "hf_abc"}
FILES = "HEAD */resolve/*"


@dataclass
class Case:
    cause: Cause
    words: str
    remedy: str = ""
    permanent: bool = True
    fault: Fault | None = None
    env: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=lambda: [SMALL])


CASES = {
    # The real hub shows the list of a gated repository to everybody, but not its files.
    "gated, no token": Case(
        Cause.MODEL_GATED, "is gated, and there is no HF_TOKEN", "HF_TOKEN",
        fault=Fault(Kind.GATED, FILES),
    ),
    "gated, token without access": Case(
        Cause.MODEL_GATED, "account of HF_TOKEN has not been given access", "ask for access",
        fault=Fault(Kind.GATED, FILES), env=TOKEN,
    ),
    "invalid token": Case(
        Cause.TOKEN_INVALID, "does not accept HF_TOKEN", "HF_TOKEN",
        fault=Fault(Kind.INVALID_TOKEN), env=TOKEN,
    ),
    "token that may not": Case(
        Cause.MODEL_GATED, "HTTP 403): Your token lacks", "HF_TOKEN",
        fault=Fault(Kind.FORBIDDEN), env=TOKEN,
    ),
    "no such repository": Case(
        Cause.MODEL_NOT_FOUND, "no/such does not exist", "MODEL_NAME",
        env=TOKEN, arguments=["no/such"],
    ),
    "no such repository, or private": Case(
        Cause.MODEL_NOT_FOUND, "does not exist at http://127.0.0.1", "HF_TOKEN if the model",
        arguments=["no/such"],
    ),
    "not a name": Case(
        Cause.MODEL_NOT_FOUND, "'a/b/c' is not the name of a repository", "MODEL_NAME",
        arguments=["a/b/c"],
    ),
    "no such revision": Case(
        Cause.MODEL_NOT_FOUND, "tiny/model has no revision 'v9'", "MODEL_REVISION",
        arguments=[SMALL, "--revision", "v9"],
    ),
    "disabled": Case(
        Cause.MODEL_NOT_FOUND, "tiny/model has been disabled", fault=Fault(Kind.DISABLED)
    ),
    "hub in trouble": Case(
        Cause.HUB_UNREACHABLE, "error of its own (HTTP 503)", "HF_ENDPOINT", permanent=False,
        fault=Fault(Kind.UNAVAILABLE),
    ),
    "too many requests": Case(
        Cause.HUB_RATE_LIMITED, "it asks to wait 55 s", "HF_TOKEN", permanent=False,
        fault=Fault(Kind.RATE_LIMITED, seconds=55),
    ),
    "not a hub": Case(
        Cause.HUB_UNREACHABLE, "does not answer as a Hugging Face hub does", "HF_ENDPOINT",
        permanent=False, fault=Fault(Kind.NOT_A_HUB),
    ),
    "no certificates": Case(
        Cause.HUB_UNREACHABLE, "SSL_CERT_FILE='/ca.pem' holds no certificates", "SSL_CERT_FILE",
        env={"SSL_CERT_FILE": "/ca.pem"},
    ),
    "no certificates in it": Case(
        Cause.HUB_UNREACHABLE, "SSL_CERT_FILE='/dev/null' holds no certificates", "SSL_CERT_FILE",
        env={"SSL_CERT_FILE": "/dev/null"},
    ),
    "always cut": Case(
        Cause.HUB_UNREACHABLE, "broke the connection off", permanent=False,
        fault=Fault(Kind.CUT, "GET /cdn/*", at=1000),
    ),
}  # fmt: skip
SILENCES = {
    "never answers": Case(
        Cause.HUB_UNREACHABLE, "accepts connections but does not answer", permanent=False,
        fault=Fault(Kind.SILENT), arguments=[SMALL, "--metadata-seconds", "2"],
        # Or hub asks first, and for 3 s, for a list of coding agents.
        env={"HF_HUB_DISABLE_TELEMETRY": "1"},
    ),
    "answers, and then no more": Case(
        Cause.HUB_UNREACHABLE, "has not said what it holds for 2 s", permanent=False,
        fault=Fault(Kind.SILENT, "*/tree/*"), arguments=[SMALL, "--metadata-seconds", "2"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_failure_is_explained_clearly(hub: FakeHub, home: Path, case: Case) -> None:
    if "SSL_CERT_FILE" in case.env and httpx.__version__.startswith("0.27."):
        pytest.skip("httpx 0.27 ignores a variable that names no file, and goes on")
    assert_explained(hub, home, case)


@on_a_clock("hub gives up its first question after 1 s, and we give up hub after 2 s")
@pytest.mark.parametrize("case", SILENCES.values(), ids=SILENCES)
def test_a_hub_that_falls_silent_is_explained_clearly(hub: FakeHub, home: Path, case: Case) -> None:
    assert_explained(hub, home, case)


def assert_explained(hub: FakeHub, home: Path, case: Case) -> None:
    if case.fault:
        hub.faults.append(case.fault)
    outcome = download(hub.url, home, *case.arguments, env=case.env)
    failed = outcome.one(Failed)
    assert (outcome.code, failed.cause, failed.permanent) == (1, case.cause, case.permanent)
    assert case.words in failed.message
    assert case.remedy in failed.remedy
    assert "\n" not in failed.message
    assert outcome.events[-1] == failed
    assert "Traceback" not in outcome.stderr


def test_no_byte_is_fetched_for_a_disk_that_is_too_small(hub: FakeHub, home: Path) -> None:
    huge = Fault(Kind.HUGE, "HEAD *.safetensors", at=9_000_000 * 10**9)
    case = Case(Cause.DISK_FULL, "needs 9000000.0 GB more", "HF_HOME", fault=huge)
    assert_explained(hub, home, case)
    assert hub.count("GET /cdn/*") + hub.count("GET */resolve/*") == 0


def test_a_disk_with_partial_files_on_it_may_have_room_in_a_moment(
    hub: FakeHub, home: Path
) -> None:
    """A container that was killed and started again at once: nobody dares to remove them yet."""
    hub.faults.append(Fault(Kind.HUGE, "HEAD *.safetensors", at=9_000_000 * 10**9))
    blobs = home / "hub" / "models--{}".format(SMALL.replace("/", "--")) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "abc.0123abcd.incomplete").write_bytes(b"half a shard")
    failed = download(hub.url, home, SMALL).one(Failed)
    assert (failed.cause, failed.permanent) == (Cause.DISK_FULL, False)


def test_an_endpoint_that_refuses_is_named(home: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        failed = download(endpoint, home, SMALL).one(Failed)
    assert (failed.cause, failed.permanent) == (Cause.HUB_UNREACHABLE, False)
    assert f"the hub at {endpoint} cannot be reached: " in failed.message
    assert "refused" in failed.message


def test_a_name_without_an_address_is_named(home: Path) -> None:
    failed = download("http://hub.invalid", home, SMALL).one(Failed)
    assert failed.message == (
        "the hub at http://hub.invalid cannot be reached: its name has no address (DNS)"
    )


def test_a_home_that_is_no_folder_is_named(hub: FakeHub, home: Path) -> None:
    home.write_text("")
    failed = download(hub.url, home, SMALL).one(Failed)
    assert failed.cause is Cause.CACHE_NOT_WRITABLE
    assert f"the cache at {home}/hub cannot be written" in failed.message
    assert "HF_HOME" in failed.remedy
    assert failed.permanent


def _mounted(home: Path, options: str) -> list[str]:
    """A wrapper that gives the child its own file system at `home`, where Linux permits."""
    home.mkdir()
    mount = f'mount -t tmpfs -o {options} none "{home}" && exec "$@"'
    wrapper = ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, "sh"]
    if subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no mounts in a namespace of our own here")
    return wrapper


def test_a_volume_that_cannot_be_written_is_named(hub: FakeHub, home: Path) -> None:
    failed = download(hub.url, home, SMALL, wrapper=_mounted(home, "ro")).one(Failed)
    assert failed.cause is Cause.CACHE_NOT_WRITABLE
    assert f"the cache at {home}/hub cannot be written: Read-only file system" in failed.message
    assert failed.permanent
    assert hub.count("GET */cdn/*") == 0


def test_a_disk_that_fills_up_on_the_way_is_named(hub: FakeHub, home: Path) -> None:
    # Bytes enough for the plan, but too few inodes: ENOSPC comes in the middle.
    wrapper = _mounted(home, "size=64m,nr_inodes=14")
    failed = download(hub.url, home, SMALL, wrapper=wrapper).one(Failed)
    assert (failed.cause, failed.permanent) == (Cause.DISK_FULL, True)
    assert f"the disk at {home}/hub is full" in failed.message


def test_the_password_of_a_hub_is_not_told(home: Path) -> None:
    failed = download("http://me:hush@127.0.0.1:9", home, SMALL).one(Failed)
    assert failed.message.startswith("the hub at http://***@127.0.0.1:9 cannot be reached")
    assert "hush" not in failed.message


ASKED = Asked("a/b", "main", "https://hub", Path("/cache"), has_token=False)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), Cause.DISK_FULL),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), Cause.DISK_FULL),
        (RuntimeError("I/O error: No space left on device (os error 28)"), Cause.DISK_FULL),
        (OSError("Consistency check failed: file should be of size 3"), Cause.CORRUPT_FILE),
        (RuntimeError("out of ideas"), Cause.UNKNOWN),
    ],
)
def test_errors_that_no_hub_makes(error: Exception, cause: Cause) -> None:
    wrapped = ValueError("hub's own words")
    wrapped.__cause__ = error
    assert explain(wrapped, ASKED).cause is cause
