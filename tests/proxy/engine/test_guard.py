"""The guard: whatever happens above it or below it, nothing stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.engine.service import Running, alive, below, wait_until
from tests.patience import PATIENCE

GUARD = Path(__file__).parents[3] / "proxy/engine/guard.py"
# A tree like vLLM's: a command with a child, and a grandchild that has left its session.
TREE = "setsid sleep 300 & sleep 300 & echo up; wait"

Guard = subprocess.Popen[bytes]


class Guarded:
    """Commands under a guard; what is left of them is killed after the test."""

    def __init__(self) -> None:
        self._guards: list[Guard] = []
        self._seen: set[Running] = set()

    def __call__(self, *command: str) -> Guard:
        guard = subprocess.Popen(
            [sys.executable, "-E", "-S", str(GUARD), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self._guards.append(guard)
        return guard

    def tree(self, guard: Guard, count: int) -> set[Running]:
        """The processes below a guard, once there are so many."""
        wait_until(lambda: len(below(guard.pid)) == count, PATIENCE, f"{count} processes")
        found = below(guard.pid)
        self._seen |= found
        return found

    def clean_up(self) -> None:
        for guard in self._guards:
            guard.kill()
            guard.wait()
            assert guard.stdin is not None
            assert guard.stdout is not None
            guard.stdin.close()
            guard.stdout.close()
        for each in alive(self._seen):
            with suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)


@pytest.fixture
def guarded() -> Iterator[Guarded]:
    made = Guarded()
    yield made
    made.clean_up()


def assert_gone(processes: set[Running]) -> None:
    wait_until(lambda: not alive(processes), PATIENCE, f"an end of {processes}")


@pytest.mark.parametrize(("command", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137)])
def test_exit_code_is_the_commands(guarded: Guarded, command: str, code: int) -> None:
    assert guarded("sh", "-c", command).wait(PATIENCE) == code


def test_missing_command_says_so(guarded: Guarded) -> None:
    guard = guarded("no-such-command")
    assert guard.wait(PATIENCE) == 127
    assert guard.stdout is not None
    assert guard.stdout.read() == b"cannot run no-such-command: No such file or directory\n"


def test_orphans_of_a_command_that_is_killed_are_ended(guarded: Guarded) -> None:
    guard = guarded("sh", "-c", TREE)
    tree = guarded.tree(guard, 3)

    def shells() -> list[int]:
        return [each.pid for each in tree if Path(f"/proc/{each.pid}/comm").read_text() == "sh\n"]

    wait_until(lambda: len(shells()) == 1, PATIENCE, "two that are no shells any more")
    (command,) = shells()
    os.kill(command, signal.SIGKILL)
    assert guard.wait(PATIENCE) == 137
    assert not alive(tree)


def test_end_of_its_input_ends_all(guarded: Guarded) -> None:
    guard = guarded("sh", "-c", f"trap '' TERM INT; {TREE}")
    tree = guarded.tree(guard, 3)
    assert guard.stdin is not None
    guard.stdin.close()
    assert guard.wait(PATIENCE) == 137
    assert not alive(tree)


def test_sigkill_of_its_parent_ends_all(guarded: Guarded) -> None:
    code = "import subprocess, sys; subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE).wait()"
    parent = subprocess.Popen(
        [sys.executable, "-c", code, sys.executable, "-E", "-S", str(GUARD), "sh", "-c", TREE]
    )
    wait_until(lambda: len(below(parent.pid)) == 4, PATIENCE, "the guard and its tree")
    tree = below(parent.pid)
    parent.kill()
    parent.wait()
    assert_gone(tree)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_is_passed_to_the_command_alone(guarded: Guarded, number: int) -> None:
    child = "import signal, time\nsignal.signal(15, print)\nsignal.signal(2, print)\ntime.sleep(99)"
    command = f"""
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {child!r}])
def told(number, frame):
    time.sleep(0.2)  # a signal to the child would have been printed by now
    sys.exit(10 + number if child.poll() is None else 1)
signal.signal(signal.SIGTERM, told)
signal.signal(signal.SIGINT, told)
print("up", flush=True)
while True:
    time.sleep(0.05)
"""
    guard = guarded(sys.executable, "-c", command)
    assert guard.stdout is not None
    assert guard.stdout.readline() == b"up\n"
    guard.send_signal(number)
    assert guard.wait(PATIENCE) == 10 + number
    assert guard.stdout.read() == b""


def test_command_that_is_killed_with_its_guard_dies_too(guarded: Guarded) -> None:
    guard = guarded("sleep", "300")
    tree = guarded.tree(guard, 1)
    guard.kill()
    assert_gone(tree)


def test_zombies_of_the_command_are_collected(guarded: Guarded) -> None:
    guard = guarded("sh", "-c", "for i in 1 2 3; do (sleep 0.1 &) ; done; exec sleep 300")
    guarded.tree(guard, 1)
    children = Path(f"/proc/{guard.pid}/task/{guard.pid}/children")
    wait_until(lambda: len(children.read_text().split()) == 1, PATIENCE, "no zombies")


def test_resource_tracker_may_clean_up_before_it_is_ended(guarded: Guarded, tmp_path: Path) -> None:
    tracker = tmp_path / "resource_tracker.py"
    tracker.write_text(
        "import os, pathlib, sys, time\n"
        "while os.getppid() == int(sys.argv[2]):\n"
        "    time.sleep(0.02)\n"
        "time.sleep(0.3)\n"
        "pathlib.Path(sys.argv[1]).write_text('cleaned')\n"
    )
    note = tmp_path / "note"
    script = f"{sys.executable} {tracker} {note} $$ & echo up; wait"
    guard = guarded("sh", "-c", script)
    assert guard.stdout is not None
    assert guard.stdout.readline() == b"up\n"
    time.sleep(0.3)
    assert guard.stdin is not None
    guard.stdin.close()
    assert guard.wait(PATIENCE) == 137
    assert note.read_text() == "cleaned"
