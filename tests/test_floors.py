"""`make floors`: what the run on the oldest and the newest versions is made of."""

from __future__ import annotations

import pytest

from scripts import floors
from tests.tools import needs


@pytest.mark.parametrize(
    ("requirement", "exact"),
    [
        ("httpx>=0.27", "httpx==0.27"),
        ('uvloop>=0.19; sys_platform != "win32"', 'uvloop==0.19; sys_platform != "win32"'),
        ("a>=1.2,<2", "a==1.2"),
    ],
)
def test_the_oldest_is_the_lower_bound(requirement: str, exact: str) -> None:
    assert floors.oldest(requirement) == exact


@pytest.mark.parametrize("requirement", ["httpx", "httpx<1", "httpx==0.27"])
def test_a_requirement_without_a_lower_bound_is_refused(requirement: str) -> None:
    with pytest.raises(ValueError, match="no lower bound"):
        floors.oldest(requirement)


def test_all_requirements_are_in_both_and_the_oldest_are_exact() -> None:
    own = floors.lines("requirements.txt")
    assert set(own) <= set(floors.requirements("newest"))
    assert {floors.oldest(each) for each in own} <= set(floors.requirements("oldest"))


def test_what_is_run_is_there() -> None:
    assert [
        each for each in (*floors.TESTS, *floors.LEFT_OUT) if not (floors.ROOT / each).exists()
    ] == []


@pytest.mark.parametrize(("required", "is_skipped"), [("", True), ("1", False)])
def test_without_a_package_a_test_is_skipped_unless_tools_are_required(
    monkeypatch: pytest.MonkeyPatch, required: str, is_skipped: bool
) -> None:
    monkeypatch.setenv("REQUIRE_TOOLS", required)
    assert needs("no_such_package").args == (is_skipped,)
    assert needs("pytest").args == (False,)
