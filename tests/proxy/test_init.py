"""The sidecar as PID 1 of a container that has no init: it stops when told to, and reaps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.service import Service, alive, command_line, wait_until
from tests.fake_engine import BIN
from tests.patience import PATIENCE
from tests.proxy.engine.living import CHILDREN, chat

# As a container has it: PID 1, and a /proc that shows only what is inside.
CONTAINER = ("unshare", "-Ur", "--pid", "--fork", "--kill-child", "--mount-proc")


@pytest.fixture
def contained(tmp_path: Path) -> Iterator[Service]:
    if subprocess.run([*CONTAINER, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this machine allows no PID namespaces")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    environ = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHON": sys.executable,
        "MODEL_NAME": str(tmp_path / "model"),
        "SERVED_MODEL_NAME": "tiny",
        "FAKE_ENGINE_PHASE_SECONDS": "0.02",
        **CHILDREN,
    }
    command = (*CONTAINER, sys.executable, "-m", "proxy")
    with Service(tmp_path, command, **environ) as service:
        service.wait_for("ready", PATIENCE)
        yield service
        service.process.kill()  # it passes no SIGTERM on; all that is inside goes with it


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_sigterm_to_pid_1_drains_and_exits_with_0(contained: Service) -> None:
    (first,) = children(contained.process.pid)
    assert "-m proxy" in command_line(first)
    contained.tree()
    os.kill(first, signal.SIGTERM)
    assert contained.exit_code(5) == 0
    assert contained.phases()[-2:] == ["draining", "stopped"]
    assert contained.lines()[-1]["message"].startswith("stopped: 0 requests finished")
    contained.assert_nothing_is_left(0)


def test_orphans_are_collected_also_those_of_a_guard_that_was_killed(contained: Service) -> None:
    (first,) = children(contained.process.pid)
    before = contained.tree()
    (guard,) = (each.pid for each in before if "guard.py" in command_line(each.pid))
    os.kill(guard, signal.SIGKILL)
    wait_until(lambda: "restarting" in contained.phases(), PATIENCE, "a restart")
    contained.wait_for("ready", PATIENCE)
    assert len(alive(before)) == 2, "PID 1 and the sidecar"
    # Dead ones that nobody collects stay listed as its children.
    assert len(children(first)) == 1
    assert chat(contained).status_code == 200


def test_sidecar_that_is_killed_takes_the_container_with_it(contained: Service) -> None:
    (first,) = children(contained.process.pid)
    (sidecar,) = children(first)
    contained.tree()
    os.kill(sidecar, signal.SIGKILL)
    assert contained.exit_code(5) == 128 + signal.SIGKILL
    contained.assert_nothing_is_left(3)
