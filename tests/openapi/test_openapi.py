"""/openapi.json is true: schemathesis asks for all that stands in it, and for what does not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_engine import FakeEngine
from tests.patience import PATIENCE
from tests.wire import secrets
from tests.wire.service import Sidecar

ROOT = Path(__file__).parents[2]
KEY = secrets.KEY
EXAMPLES = 5
RUN_SECONDS = 300
# Everything in the description at its edges, and random values; or these alone.
ALL, SOME = "--phases=coverage,fuzzing", "--phases=fuzzing"
# What holds of any answer. Methods that are not described, and what the engine makes of bodies that
# are, are its own to answer: of our pages those checks are run as well.
CHECKS = (
    *("status_code_conformance", "content_type_conformance", "response_headers_conformance"),
    *("response_schema_conformance", "ignored_auth", "refusals_have_their_shape"),
)


def schemathesis(service: Sidecar, folder: Path, *options: str) -> str:
    """What it prints, where nothing is wrong; the same examples in every run."""
    program = (sys.executable, "-m", "schemathesis.cli", "run")
    always = ("--generation-deterministic", "--continue-on-failure", f"--max-examples={EXAMPLES}")
    run = subprocess.run(
        [
            *(*program, f"http://127.0.0.1:{service.port}/openapi.json", *always),
            *(f"--header=x-api-key: {KEY}", *options),
        ],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.openapi.checks",
            "NO_COLOR": "1",
        },
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    return run.stdout


def cases(printed: str) -> int:
    found = re.search(r"(\d+) generated", printed)
    return int(found[1]) if found else 0


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    with FakeEngine("--disable-uvicorn-access-log", "--served-model-name", "tiny") as engine:
        yield engine


def test_our_own_pages_answer_as_described_and_nothing_else(
    engine: FakeEngine, tmp_path: Path
) -> None:
    with Sidecar(tmp_path, engine, API_KEYS=f"me:{KEY}") as service:
        service.wait_for("ready", PATIENCE)
        printed = schemathesis(service, tmp_path, "--exclude-tag=engine", "--checks=all", ALL)
        assert cases(printed) > 100
        service.process.kill()


@pytest.mark.parametrize(
    ("limits", "phases"), [("", ALL), ("me: rpm=3", SOME)], ids=["free", "limited"]
)
def test_what_is_passed_on_is_answered_as_described(
    engine: FakeEngine, tmp_path: Path, limits: str, phases: str
) -> None:
    with Sidecar(tmp_path, engine, API_KEYS=f"me:{KEY}", KEY_LIMITS=limits) as service:
        service.wait_for("ready", PATIENCE)
        checks = f"--checks={','.join((*CHECKS, 'not_a_server_error'))}"
        printed = schemathesis(service, tmp_path, "--include-tag=engine", checks, phases)
        assert cases(printed) > 100
        refused = [line for line in service.lines("proxy.access") if line["status"] == 429]
        assert bool(refused) is bool(limits)
        service.process.kill()


def test_without_an_engine_only_that_goes_wrong_which_is_described(tmp_path: Path) -> None:
    with FakeEngine() as engine:
        """It is gone before it is asked."""
    with Sidecar(tmp_path, engine, API_KEYS=f"me:{KEY}") as service:
        service.wait_until_listening(PATIENCE)
        printed = schemathesis(service, tmp_path, f"--checks={','.join(CHECKS)}", SOME)
        assert cases(printed) > 100
        service.process.kill()
