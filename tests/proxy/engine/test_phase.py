"""The table of transitions: drawn in the documentation, kept in production, held to in tests."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest

from proxy.engine.phase import ENDS, TRANSITIONS, Phase
from proxy.engine.state import EngineState

PAGE = (Path(__file__).parents[3] / "docs" / "engine-life.md").read_text()


def reachable(start: Phase) -> set[Phase]:
    reached, new = {start}, {start}
    while new:
        new = {after for phase in new for after in TRANSITIONS[phase]} - reached
        reached |= new
    return reached


def mermaid() -> str:
    """The table as a Mermaid state diagram, one line for each transition."""
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.CHECKING}"]
    for before, following in TRANSITIONS.items():
        lines += [f"    {before} --> {after}" for after in Phase if after in following]
    lines += [f"    {phase} --> [*]" for phase in ENDS]
    return "\n".join(lines) + "\n"


def test_the_documentation_draws_the_table() -> None:
    (drawn,) = re.findall(r"```mermaid\n(.*?)```", PAGE, re.DOTALL)
    assert drawn == mermaid()


def test_the_documentation_has_a_row_for_each_phase() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(Phase)


def test_every_phase_has_its_row_and_can_be_reached() -> None:
    assert set(TRANSITIONS) == set(Phase) == reachable(Phase.CHECKING)


@pytest.mark.parametrize(
    "phase", sorted(set(Phase) - {Phase.FAILED, Phase.STOPPED, Phase.DRAINING, Phase.ASLEEP})
)
def test_from_everywhere_it_can_be_stopped_and_can_fail(phase: Phase) -> None:
    assert {Phase.DRAINING, Phase.FAILED, Phase.RESTARTING} <= TRANSITIONS[phase]


def test_requests_are_only_let_in_after_a_token_was_generated() -> None:
    before = {phase for phase in Phase if Phase.READY in TRANSITIONS[phase]}
    assert before == {Phase.WARMING, Phase.DEGRADED, Phase.WAKING}


def test_a_transition_that_is_not_declared_is_made_but_not_in_silence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    state = EngineState()
    for phase in (Phase.LOADING, Phase.WARMING, Phase.DOWNLOADING):
        state.enter(phase)
        assert state.snapshot.phase is phase
    errors = [line.getMessage() for line in caplog.records if line.levelno == logging.ERROR]
    assert errors == ["undeclared transition: warming -> downloading"]
