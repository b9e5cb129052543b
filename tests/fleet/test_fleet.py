"""vllm-router and two sidecars, each with an engine of its own: who is asked, and when no more.

The figures of docs/scaling.md are what `make test TESTS=tests/fleet PYTEST_ADDOPTS=-s` prints.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import pytest

from tests.engine.service import Line, Service, wait_until
from tests.fake_engine import x_fake
from tests.fleet.load import Asked, End, Load, ends, under_load
from tests.fleet.router import Router
from tests.patience import PATIENCE
from tests.proxy.engine.living import CHAT, Gate, starting
from tests.wire.several import engines_of

CLIENTS = 16
# As deploy/k8s has it.
DRAIN_DELAY_SECONDS = 10


@dataclass
class Fleet:
    """Two sidecars and the router in front of them; the engine of the first starts by its gate."""

    one: Service
    gate: Gate
    other: Service
    router: Router

    def seen(self, one: bool, other: bool) -> dict[str, bool]:
        return {self.one.url: one, self.other.url: other}

    def answered_by(self, sidecar: Service, asked: list[Asked]) -> int:
        """How many of these requests have a line in a sidecar's log."""
        ids = {line["request_id"] for line in sidecar.lines("proxy.access")}
        return sum(each.request_id in ids for each in asked)

    def wait_for_work(self, load: Load, sidecars: list[Service], since: float) -> None:
        """Until so many that began after a moment have been answered by each, whole."""

        def worked() -> bool:
            whole = [each for each in load.since(since) if each.end is End.WHOLE]
            return all(self.answered_by(each, whole) >= CLIENTS for each in sidecars)

        wait_until(worked, PATIENCE, "whole answers of each sidecar")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """One for all tests; the last one ends a sidecar."""
    folder = tmp_path_factory.mktemp("fleet")
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    given = {"DRAIN_DELAY_SECONDS": str(DRAIN_DELAY_SECONDS)}
    with ExitStack() as stack:
        sidecars = []
        gate = Gate(folder, is_open=True)
        for name, environ in (("one", gate.environ), ("other", {})):
            (folder / name).mkdir()
            start = stack.enter_context(starting(folder / name, model))
            sidecars.append(start(**given, **environ))
        for sidecar in sidecars:
            sidecar.wait_for("ready", PATIENCE)
        router = stack.enter_context(Router(folder, [sidecar.url for sidecar in sidecars]))
        one, other = sidecars
        yield Fleet(one, gate, other, router)
        for sidecar in sidecars:
            sidecar.terminate()  # the second signal, at the end of the block, cuts the drain short


def told(what: str, load: Load, at: float, noticed: float) -> None:
    """The figures of one run."""
    flying = [each for each in load.asked if each.began < at < each.ended]
    window, after = load.between(at, noticed), load.since(noticed)
    print(
        f"\n{what}: noticed after {noticed - at:.2f} s; in flight then: {ends(flying)}; begun "
        f"before it was noticed: {ends(window)}; begun after: {ends(after)}"
    )


def test_usage_and_request_ids_come_through_the_router(fleet: Fleet) -> None:
    headers = {"x-request-id": "through-the-router"}
    answer = fleet.router.client.post(
        "/v1/chat/completions", json=CHAT | {"stream": True}, headers=headers
    )
    assert answer.headers["x-request-id"] == headers["x-request-id"]
    assert re.search(r"data: \[DONE\]\n\n$", answer.text)

    def found() -> list[Line]:
        lines = [*fleet.one.lines("proxy.access"), *fleet.other.lines("proxy.access")]
        return [line for line in lines if line["request_id"] == headers["x-request-id"]]

    wait_until(lambda: bool(found()), PATIENCE, "its line")
    (line,) = found()
    assert (line["outcome"], line["stream"]) == ("ok", True)
    assert line["completion_tokens"] > 0, "the sidecar asks the engine for it"


def test_chat_that_names_itself_stays_with_its_sidecar(fleet: Fleet) -> None:
    ids = [uuid4().hex for _ in range(6)]
    for each in ids:
        headers = {"x-request-id": each, "x-session-id": "a-chat"}
        answer = fleet.router.client.post("/v1/chat/completions", json=CHAT, headers=headers)
        assert answer.status_code == 200

    def seen() -> list[int]:
        both = (fleet.one, fleet.other)
        return sorted(
            len({line["request_id"] for line in each.lines("proxy.access")} & set(ids))
            for each in both
        )

    wait_until(lambda: sum(seen()) == len(ids), PATIENCE, "all lines")
    assert seen() == [0, len(ids)]


def test_request_that_an_engine_has_seen_is_not_sent_to_another_one(
    fleet: Fleet, tmp_path: Path
) -> None:
    def times_asked(router: Router, expected: int) -> int:
        ids = {"x-request-id": uuid4().hex}
        fatal = x_fake(die="before_headers") | ids
        answer = router.client.post("/v1/chat/completions", json=CHAT, headers=fatal)
        assert answer.status_code == 502
        assert answer.headers["x-should-retry"] == "false"

        def asked() -> int:
            lines = [*fleet.one.lines("proxy.access"), *fleet.other.lines("proxy.access")]
            which = (ids["x-request-id"], "chat")
            return sum((line["request_id"], line["route"]) == which for line in lines)

        # A line is written when its answer is out.
        wait_until(lambda: asked() >= expected, PATIENCE, "a line for each time")
        return asked()

    assert times_asked(fleet.router, 1) == 1
    # What --disable-retries is for.
    with Router(tmp_path, list(fleet.seen(True, True)), options=()) as router:
        assert times_asked(router, 5) == 5


def test_sidecars_that_say_no_are_asked_again_at_once(fleet: Fleet, tmp_path: Path) -> None:
    refusals = 40

    def after_refusals(router: Router) -> int:
        for _ in range(refusals):
            answer = router.client.post(
                "/v1/chat/completions", json=CHAT, headers=x_fake(status=503)
            )
            assert answer.status_code == 503
        return router.client.post("/v1/chat/completions", json=CHAT).status_code

    assert after_refusals(fleet.router) == 200
    # What --disable-circuit-breaker is for: full waiting rooms would close the whole fleet.
    with Router(tmp_path, list(fleet.seen(True, True)), options=["--disable-retries"]) as router:
        assert after_refusals(router) == 503


def test_sidecar_whose_engine_dies_gets_no_requests_until_it_has_a_new_one(fleet: Fleet) -> None:
    load = Load(fleet.router.url)
    with under_load(load, CLIENTS):
        fleet.wait_for_work(load, [fleet.one, fleet.other], 0)
        fleet.gate.close()
        at = time.monotonic()
        os.kill(engines_of(fleet.one)["tiny"], signal.SIGKILL)
        fleet.router.wait_for(fleet.seen(False, True))
        noticed = time.monotonic()
        fleet.gate.open()
        fleet.router.wait_for(fleet.seen(True, True))
        fleet.wait_for_work(load, [fleet.one, fleet.other], time.monotonic())
    told("engine killed", load, at, noticed)
    assert {each.end for each in load.between(0, at) if each.ended < at} == {End.WHOLE}
    assert {each.end for each in load.since(noticed)} == {End.WHOLE}
    # The sidecar is there to say what has happened: nobody is cut off in the middle.
    assert {each.end for each in load.between(0, noticed)} <= {End.WHOLE, End.TOLD, End.REFUSED}


def test_killed_sidecar_is_no_longer_asked_and_is_asked_again_when_it_is_back(
    fleet: Fleet,
) -> None:
    load = Load(fleet.router.url)
    with under_load(load, CLIENTS):
        fleet.wait_for_work(load, [fleet.one, fleet.other], 0)
        at = time.monotonic()
        fleet.one.process.kill()
        fleet.router.wait_for(fleet.seen(False, True))
        noticed = time.monotonic()
        fleet.wait_for_work(load, [fleet.other], noticed)
        back = time.monotonic()
        fleet.one.process.wait()
        fleet.one.start()
        fleet.router.wait_for(fleet.seen(True, True))
        fleet.wait_for_work(load, [fleet.one, fleet.other], time.monotonic())
    told("sidecar killed", load, at, noticed)
    assert {each.end for each in load.between(0, at) if each.ended < at} == {End.WHOLE}
    # Nothing that began once it was noticed was lost, while it was away and when it was back.
    assert {each.end for each in load.since(noticed)} == {End.WHOLE}
    assert fleet.answered_by(fleet.one, load.between(noticed, back)) == 0
    lost = {each.end for each in load.between(0, noticed)} - {End.WHOLE}
    assert lost <= {End.UNREACHED, End.CUT}, "no broken answer looks whole"


def test_drain_loses_no_request(fleet: Fleet) -> None:
    load = Load(fleet.router.url)
    with under_load(load, CLIENTS):
        fleet.wait_for_work(load, [fleet.one, fleet.other], 0)
        at = time.monotonic()
        fleet.one.terminate()
        fleet.router.wait_for(fleet.seen(False, True))
        noticed = time.monotonic()
        assert fleet.one.exit_code(PATIENCE) == 0
        gone = time.monotonic()
        fleet.wait_for_work(load, [fleet.other], gone)
    told("sidecar drained", load, at, noticed)
    assert {each.end for each in load.asked} == {End.WHOLE}
    assert fleet.answered_by(fleet.one, load.since(gone)) == 0
    (stopped,) = (line for line in fleet.one.lines() if "finished" in line)
    assert stopped["cut"] == 0
