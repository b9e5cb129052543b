"""docs/causes.md: every cause, with what a user reads and whether it was seen.

    .venv/bin/python -m tests.proxy.vllm.cause_table      writes the page anew

Nothing in it is typed by hand: each row is what the code says of a recorded output, of an
error from a source, or of a check that was made to fail here.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import patch

import httpx
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

from proxy.errors import Cause, EngineFailure
from proxy.machine.checks import check_disk, check_executable
from proxy.machine.pinned_memory import PinnedMemory
from proxy.models import hub_failure
from proxy.models.hub_failure import Asked, explain
from proxy.models.kind import check_local_model, kind_of
from proxy.settings import Settings
from proxy.vllm.architectures import Registry, check_architecture
from proxy.vllm.description import Description, ModelConfig
from proxy.vllm.diagnosis import diagnose
from proxy.vllm.diagnosis.facts import clip
from proxy.vllm.engine_socket import EngineSocket
from proxy.vllm.flags import TABLE
from proxy.vllm.sleep import VllmSleeper
from tests.proxy.vllm.recording import recording
from tests.proxy.vllm.source_errors import FROM_SOURCE
from tests.proxy.vllm.test_diagnosis import RECORDED, diagnose_recording
from tests.proxy.vllm.test_diagnosis_source import WHILE_SERVING, diagnose_crash, diagnose_source

PAGE = Path(__file__).parents[3] / "docs" / "causes.md"
_MAX_CHARS = 260

HEAD = """\
# Why an engine does not start, or stops

After this page you know what a failure of the engine means and what to do about it. Every failure
has one cause of a closed set: in the log, in `/info`, and in
`sidecar_engine_restarts_total{{cause}}`. Its sentence and its remedy are in `/health` and in each
503 too. This page is made from the code by `.venv/bin/python -m tests.proxy.vllm.cause_table`.

*Again*: whether the start is tried again (with back-off, within `MAX_RESTARTS`). Where the same
start would fail the same way, it is not, unless an earlier one has worked. *Seen*: where the
failure comes from:

- **real**: recorded output of real vLLM {version} on a CPU (`tests/fixtures/engine-logs`);
- **hub**: real huggingface_hub against a local server that speaks the hub's protocol
  (`tests/hub`);
- **check**: a check of the sidecar's own, made to fail in a test;
- **source**: written from the source of vLLM {version}, torch, transformers or huggingface_hub, or
  after a run whose output was not kept. No GPU was at hand: all that is about one is of this kind.
"""
SECTION = """
## `{cause}`

| What is told | What to do | Again | Seen |
| --- | --- | --- | --- |
"""

ASKED = Asked("org/model", "main", "https://huggingface.co", Path("/models/hub"), has_token=False)
WITH_TOKEN = Asked("org/model", "main", ASKED.endpoint, ASKED.cache, has_token=True)
TWO = Registry({}, {"MptForCausalLM": "0.28.0"}, {})


class Row(NamedTuple):
    """A failure and where it was seen."""

    failure: EngineFailure
    seen: str


def raised(check: Callable[[], object]) -> EngineFailure:
    """The failure that a check ends in."""
    try:
        check()
    except EngineFailure as failure:
        return failure
    raise AssertionError("the check did not fail")


def of_checks() -> Iterator[EngineFailure]:
    """The preflight's own."""
    yield raised(lambda: check_executable("no-such-vllm"))
    yield raised(lambda: kind_of("a/b/c"))
    yield raised(lambda: check_local_model("/models/nothing", Settings.load({})))
    with TemporaryDirectory() as folder:
        mine = Path(folder, "mine")
        mine.mkdir()
        (mine / "config.json").touch()
        shards = {str(n): f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
        (mine / shards["1"]).touch()
        index = mine / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": shards}))
        half = raised(lambda: check_local_model(str(mine), Settings.load({})))
        half.message = half.message.replace(folder, "/models")
        yield half
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with patch("pathlib.Path.is_file", side_effect=denied):
        yield raised(lambda: check_local_model("/models/mine", Settings.load({})))
    with patch("shutil.disk_usage", side_effect=denied):
        yield raised(lambda: check_disk(Path("/models/huggingface")))
    with (
        patch("proxy.vllm.architectures.installed_registry", return_value=TWO),
        patch("proxy.vllm.architectures.package_folder", return_value=Path("/nowhere")),
    ):
        for name in ("FooBarForCausalLM", "MptForCausalLM"):
            model = Description("m", ModelConfig(architectures=(name,)))
            yield raised(partial(check_architecture, model, Settings.load({})))
    yield raised(lambda: asyncio.run(_wake_of_another()))


async def _wake_of_another() -> None:
    """An engine that counts on with each answer."""
    tokens = count()

    def answer(request: httpx.Request) -> httpx.Response:
        choice = {"token_ids": [next(tokens)]}
        return httpx.Response(200, json={"choices": [choice], "status": "awake"})

    transport = httpx.MockTransport(answer)
    socket = EngineSocket()
    async with httpx.AsyncClient(base_url="http://engine", transport=transport) as client:
        sleeper = VllmSleeper(client, "", PinnedMemory(), socket)
        await sleeper.prepare("")
        socket.close()
        await sleeper.wake("")


def of_the_hub() -> Iterator[EngineFailure]:
    """What huggingface_hub raises, as its users read it; made to happen in tests/hub."""
    yield explain(answer(403, GatedRepoError), ASKED)
    yield explain(answer(403, GatedRepoError), WITH_TOKEN)
    yield hub_failure.no_room(ASKED, 16_600_000_000, 3_200_000_000)
    yield hub_failure.not_cached(ASKED, ["model-00002-of-00002.safetensors"])
    yield hub_failure.not_writable(ASKED, os.strerror(errno.EROFS))
    yield hub_failure.no_files(ASKED)
    yield hub_failure.unanswered(ASKED, 120)
    yield hub_failure.stalled(ASKED, 180)
    yield hub_failure.no_certificates(ASKED, "/etc/ssl/ours.pem")
    yield explain(answer(401), ASKED)
    yield explain(answer(401), WITH_TOKEN)
    yield explain(answer(403), WITH_TOKEN)
    yield explain(answer(429), ASKED)


def answer(status: int, kind: type[HfHubHTTPError] = HfHubHTTPError) -> HfHubHTTPError:
    """An error as huggingface_hub raises it, as far as it is read."""
    response: Any = SimpleNamespace(
        status_code=status, headers={"RateLimit": '"api";r=0;t=55'}, request=None
    )
    return kind("", response=response)


def of_recordings() -> Iterator[EngineFailure]:
    """Of runs that failed; a healthy engine that was stopped tells nothing new."""
    yield from map(diagnose_recording, sorted(RECORDED))
    lines = recording("C_stop_engine_30").lines
    yield diagnose(lines, None, was_ready=True)


def of_sources() -> Iterator[EngineFailure]:
    yield from map(diagnose_source, FROM_SOURCE)
    yield from (diagnose_crash(error) for error, _ in WHILE_SERVING)
    yield diagnose(["ValueError: something new"], 1, was_ready=False)


def rows() -> list[Row]:
    """One for each sentence, by cause in the order of the set; what was seen real comes first."""
    found = {
        "real": of_recordings(),
        "hub": of_the_hub(),
        "check": of_checks(),
        "source": of_sources(),
    }
    rows_by_message: dict[str, Row] = {}
    for seen, failures in found.items():
        for failure in failures:
            rows_by_message.setdefault(failure.message, Row(failure, seen))
    order = list(Cause)
    return sorted(rows_by_message.values(), key=lambda row: order.index(row.failure.cause))


def page() -> str:
    text = HEAD.format(version=json.loads(TABLE.read_bytes())["vllm_version"])
    for cause, group in groupby(rows(), key=lambda row: row.failure.cause):
        text += SECTION.format(cause=cause)
        for failure, seen in group:
            again = "no" if failure.permanent else "yes"
            text += f"| {_cell(failure.message)} | {_cell(failure.remedy)} | {again} | {seen} |\n"
    return text


def _cell(text: str) -> str:
    return clip(text, _MAX_CHARS).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
