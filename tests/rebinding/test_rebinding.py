"""DNS rebinding, with a real name server: what it says after the first look-up leads nowhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.rebinding.world import CASES, NAME, PORT, PUBLIC

ROOT = Path(__file__).parents[2]
SECONDS = 300
# In a namespace of mounts, a network and users of its own; no privilege is needed for that where
# the kernel lets users have namespaces.
_ALONE = ("unshare", "--map-root-user", "--mount", "--net")
_WITH_NAME_SERVER = """
mount --bind "$1" /etc/resolv.conf && mount --bind "$2" /etc/nsswitch.conf || exit 1
shift 2
exec "$@"
"""


def alone(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run something where all names are asked for at 127.0.0.1."""
    (folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (folder / "nsswitch.conf").write_text("hosts: files dns\n")
    files = (str(folder / "resolv.conf"), str(folder / "nsswitch.conf"))
    return subprocess.run(
        [*_ALONE, "sh", "-c", _WITH_NAME_SERVER, "sh", *files, *command],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def need_namespaces(folder: Path) -> None:
    """Skips where there can be none: that is the machine's to allow."""
    complaint = "there is no unshare"
    if shutil.which("unshare") is not None:
        tried = alone(folder, "true")
        if tried.returncode == 0:
            return
        complaint = tried.stderr.strip()
    pytest.skip(f"no network of our own: {complaint}")


@pytest.fixture(scope="module")
def happened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Case -> what came of it."""
    folder = tmp_path_factory.mktemp("rebinding")
    need_namespaces(folder)
    run = alone(folder, sys.executable, "-m", "tests.rebinding.world")
    assert run.returncode == 0, run.stdout + run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    assert found["naive"] == 1, "who looks up a name twice is led inside: the server does lie"
    cases: dict[str, Any] = found["cases"]
    assert cases.keys() == CASES.keys()
    return cases


@pytest.mark.parametrize("case", CASES)
def test_no_answer_of_a_name_server_leads_inside(happened: dict[str, Any], case: str) -> None:
    assert happened[case]["inside"] == []
    assert all(host == f"{NAME}:{PORT}" for _, host in happened[case]["visits"])


@pytest.mark.parametrize("case", ["public, then private", "public, then private over IPv6"])
def test_the_address_that_was_looked_at_is_the_one_that_is_asked(
    happened: dict[str, Any], case: str
) -> None:
    one = happened[case]
    assert (one["status"], one["lookups"]) == (200, [[PUBLIC]]), "asked for once"
    assert [path for path, _ in one["visits"]] == ["/x.png"]
    assert one["engine"] == [True], "it gets the file in place of the URL"


@pytest.mark.parametrize(
    "case",
    [
        *("private, then public", "both at once", "public over IPv4, private over IPv6"),
        *("metadata", "no address"),
    ],
)
def test_who_is_private_in_part_is_refused_before_anybody_is_asked(
    happened: dict[str, Any], case: str
) -> None:
    one = happened[case]
    assert (one["status"], one["code"]) == (400, "media_url_refused")
    assert (one["visits"], one["engine"]) == ([], [])


def test_each_redirect_is_looked_up_anew_and_judged_by_that(happened: dict[str, Any]) -> None:
    one = happened["a redirect to itself, private by then"]
    assert (one["status"], one["code"]) == (400, "media_url_refused")
    assert one["lookups"] == [[PUBLIC], ["127.0.0.1"]]
    assert ([path for path, _ in one["visits"]], one["engine"]) == (["/again"], [])
    still = happened["a redirect to itself, public still"]
    assert (still["status"], still["engine"]) == (200, [True])
    assert still["lookups"] == [[PUBLIC], [PUBLIC]]
    assert [path for path, _ in still["visits"]] == ["/again", "/x.png"]
