"""One child under its guard, on the event loop that the sidecar runs on."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
import uvloop

from proxy.engine.process import Process
from tests.engine.service import Running, alive, below, wait_until
from tests.patience import PATIENCE

T = TypeVar("T")


def run(scene: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine for a limited time."""

    async def limited() -> T:
        async with asyncio.timeout(PATIENCE):
            result = await scene
            await asyncio.sleep(0.05)  # pipes are closed a turn after their end was read
            return result

    return uvloop.run(limited())


async def shell(script: str) -> Process:
    return await Process.start(("sh", "-c", script), os.environ)


async def python(code: str) -> Process:
    return await Process.start((sys.executable, "-c", code), os.environ)


async def output(process: Process) -> list[bytes]:
    return [line async for line in process.lines()]


async def tree(process: Process, count: int) -> set[Running]:
    await asyncio.to_thread(
        wait_until, lambda: len(below(process.pid)) == count, PATIENCE, f"{count} processes"
    )
    return below(process.pid)


def test_lines_end_at_newlines_and_carriage_returns() -> None:
    async def scene() -> list[bytes]:
        return await output(await shell(r"printf 'one\n 10%%\r 20%%\r\n\ntwo'; printf x >&2"))

    assert run(scene()) == [b"one", b" 10%", b" 20%", b"twox"]


def test_huge_line_comes_whole_as_long_as_it_ends() -> None:
    async def scene() -> list[bytes]:
        return await output(await python("print('x' * 200_000); print('end')"))

    assert [len(line) for line in run(scene())] == [200_000, 3]


def test_line_without_an_end_comes_in_pieces() -> None:
    async def scene() -> list[bytes]:
        return await output(await python("print('x' * 3_000_000, end='')"))

    lines = run(scene())
    assert sum(map(len, lines)) == 3_000_000
    assert max(map(len, lines)) < 500_000
    assert len(lines) > 5


def test_output_without_an_end_leaves_the_event_loop_to_others() -> None:
    """Between two turns of the loop a few lines are taken, not all that the pipe holds."""

    async def scene() -> int:
        process = await python("while True: print('x\\n' * 30_000)")
        loop, most, total, count = asyncio.get_running_loop(), 0, 0, 0

        def turn() -> None:
            nonlocal most, count
            most, count = max(most, count), 0
            if total < 100_000:
                loop.call_soon(turn)

        turn()
        async for _ in process.lines():
            total, count = total + 1, count + 1
            if total == 100_000:
                break
        await process.discard()
        return most

    assert 0 < run(scene()) <= 100


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 2", 2), ("kill -9 $$", -9)])
def test_exit_code_is_as_subprocess_has_it(script: str, code: int) -> None:
    async def scene() -> int:
        process = await shell(script)
        await output(process)
        return await process.wait()

    assert run(scene()) == code


def test_stop_lets_the_command_end_by_itself() -> None:
    async def scene() -> tuple[list[bytes], int]:
        process = await shell("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done")
        lines = process.lines()
        said = [await anext(lines)]
        code = await process.stop(5)
        return said + [line async for line in lines], code

    assert run(scene()) == ([b"up", b"bye"], 7)


def test_stop_kills_after_its_grace() -> None:
    async def scene() -> tuple[int, float, set[Running]]:
        process = await shell("trap '' TERM; echo up; sleep 300 & while :; do sleep 0.05; done")
        assert await anext(process.lines()) == b"up"
        seen = below(process.pid)
        before = time.monotonic()
        code, seconds = await process.stop(0.3), time.monotonic() - before
        await process.discard()
        return code, seconds, alive(seen)

    code, seconds, left = run(scene())
    assert code == -9
    assert 0.3 <= seconds < PATIENCE
    assert not left


def test_kill_needs_nobody_to_read_the_output() -> None:
    async def scene() -> int:
        process = await python("while True: print('x' * 1000)")
        await asyncio.sleep(0.3)
        process.kill()
        code = await process.wait()
        assert await process.discard() == code
        return code

    assert run(scene()) == -9


def test_stop_twice_and_after_the_end_does_no_harm() -> None:
    async def scene() -> list[int]:
        process = await shell("exit 4")
        codes = [await process.wait(), await process.stop(0), await process.stop(1)]
        return [*codes, await process.discard()]

    assert run(scene()) == [4, 4, 4, 4]


def test_two_may_wait_and_one_give_up() -> None:
    async def scene() -> int:
        process = await shell("sleep 0.4; exit 5")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(process.wait(), 0.05)
        first, second = await asyncio.gather(process.wait(), process.wait())
        assert first == second == await process.discard()
        return first

    assert run(scene()) == 5


def test_guard_that_is_killed_leaves_nothing_and_the_output_ends() -> None:
    async def scene() -> tuple[list[bytes], int, set[Running]]:
        process = await shell("sleep 300 & sleep 300 & echo up; wait")
        seen = await tree(process, 3)
        os.kill(process.pid, signal.SIGKILL)
        lines = await output(process)
        return lines, await process.wait(), seen

    lines, code, seen = run(scene())
    assert (lines, code) == ([b"up"], -9)
    wait_until(lambda: not alive(seen), PATIENCE, "an end of the tree")


def test_environment_is_what_it_is_given() -> None:
    async def scene() -> list[bytes]:
        return await output(await Process.start(("/usr/bin/env",), environ))

    # Without a locale of its own the guard's Python would set one.
    environ = {"ONLY": "this", "LC_ALL": "C.UTF-8"}
    assert sorted(run(scene())) == [b"LC_ALL=C.UTF-8", b"ONLY=this"]
