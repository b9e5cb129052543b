"""What is forked is a process as the command would have made it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fork_server import ForkServer, Process
from tests.patience import PATIENCE

PROGRAM = "tests.fork_server.state"
COMMAND = (sys.executable, "-m", PROGRAM)


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    server = ForkServer(PROGRAM, ["json", "warnings"])
    yield server
    server.close()


def run(server: ForkServer | None, folder: Path, *words: str, **more: Any) -> tuple[int, str]:
    """Exit code and output, by the server or by the command itself."""
    environ = {**os.environ, "WHATEVER": "x=y\n"}
    with (folder / "output").open("w+b") as output:
        if server is None:
            code = subprocess.call(
                [*COMMAND, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=Path(__file__).parents[2],
                env=environ,
                start_new_session=more.get("new_session", False),
            )
        else:
            code = server.start(words, environ, output, **more).wait(PATIENCE)
        return code, (folder / "output").read_text()


@pytest.mark.parametrize("new_session", [False, True])
def test_it_is_in_the_state_of_a_new_process(
    server: ForkServer, tmp_path: Path, new_session: bool
) -> None:
    code, forked = run(server, tmp_path, "3", new_session=new_session)
    assert code == 3
    code, real = run(None, tmp_path, "3", new_session=new_session)
    assert code == 3
    assert json.loads(forked) == json.loads(real)


def test_an_exception_ends_it_with_1_and_a_traceback(server: ForkServer, tmp_path: Path) -> None:
    code, text = run(server, tmp_path, "raise")
    assert code == 1
    assert text.endswith("RuntimeError: on purpose\n")


def waiting(server: ForkServer, folder: Path) -> Process:
    with (folder / "output").open("wb") as output:
        return server.start(["wait"], os.environ, output)


def test_stderr_goes_elsewhere_where_that_is_asked_for(server: ForkServer, tmp_path: Path) -> None:
    with (tmp_path / "error").open("w+b") as error:
        code, text = run(server, tmp_path, "raise", error=error)
        error.seek(0)
        assert error.read().endswith(b"RuntimeError: on purpose\n")
    assert (code, json.loads(text)["arguments"][1:]) == (1, ["raise"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1])
def test_a_signal_that_ends_it_is_its_exit_code(
    server: ForkServer, tmp_path: Path, number: int
) -> None:
    process = waiting(server, tmp_path)
    assert process.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.01)
    process.send_signal(number)
    assert process.wait(PATIENCE) == -number
    assert process.wait() == -number
    process.terminate()  # of one that is gone nothing happens


def test_a_variable_that_python_reads_as_it_starts_makes_it_a_real_start(
    server: ForkServer, tmp_path: Path
) -> None:
    with (tmp_path / "output").open("wb") as output:
        environ = {**os.environ, "PYTHONOPTIMIZE": "2"}
        process = server.start(["0"], environ, output)
        assert process.wait(PATIENCE) == 0
    assert isinstance(process, subprocess.Popen)
    assert "optimize=2" in json.loads((tmp_path / "output").read_text())["flags"]


def test_what_still_runs_ends_with_the_server(tmp_path: Path) -> None:
    server = ForkServer(PROGRAM, [])
    process = waiting(server, tmp_path)
    server.close()
    with pytest.raises(ChildProcessError):
        process.wait(PATIENCE)
    assert not Path(f"/proc/{process.pid}").exists()
