"""One child under its guard, on the event loop that the sidecar runs on."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec

import pytest
import uvloop

from proxy.engine.process import Process
from tests.engine.service import Running, alive, below, wait_until
from tests.patience import PATIENCE

_P = ParamSpec("_P")


def on_uvloop(test: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """A test of limited time, on the event loop that the sidecar runs on."""

    async def limited(*args: _P.args, **kwargs: _P.kwargs) -> None:
        async with asyncio.timeout(PATIENCE):
            await test(*args, **kwargs)
            await asyncio.sleep(0.05)  # pipes are closed a turn after their end was read

    @wraps(test)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        uvloop.run(limited(*args, **kwargs))

    return run


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


@on_uvloop
async def test_lines_end_at_newlines_and_carriage_returns() -> None:
    process = await shell(r"printf 'one\n 10%%\r 20%%\r\n\ntwo'; printf x >&2")
    assert await output(process) == [b"one", b" 10%", b" 20%", b"twox"]


@on_uvloop
async def test_huge_line_comes_whole_as_long_as_it_ends() -> None:
    lines = await output(await python("print('x' * 200_000); print('end')"))
    assert [len(line) for line in lines] == [200_000, 3]


@on_uvloop
async def test_line_without_an_end_comes_in_pieces() -> None:
    lines = await output(await python("print('x' * 3_000_000, end='')"))
    assert sum(map(len, lines)) == 3_000_000
    assert max(map(len, lines)) < 500_000
    assert len(lines) > 5


@on_uvloop
async def test_output_without_an_end_leaves_the_event_loop_to_others() -> None:
    """Between two turns of the loop a few lines are taken, not all that the pipe holds."""
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
    assert 0 < most <= 100


@pytest.mark.parametrize(("script", "code"), [("exit 2", 2), ("kill -9 $$", -9)])
@on_uvloop
async def test_exit_code_is_as_subprocess_has_it(script: str, code: int) -> None:
    process = await shell(script)
    await output(process)
    assert await process.wait() == code


@on_uvloop
async def test_stop_lets_the_command_end_by_itself() -> None:
    process = await shell("trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done")
    lines = process.lines()
    assert await anext(lines) == b"up"
    assert await process.stop(5) == 7
    assert [line async for line in lines] == [b"bye"]


@on_uvloop
async def test_stop_kills_after_its_grace() -> None:
    process = await shell("trap '' TERM; echo up; sleep 300 & while :; do sleep 0.05; done")
    assert await anext(process.lines()) == b"up"
    seen = below(process.pid)
    before = time.monotonic()
    assert await process.stop(0.3) == -9
    assert 0.3 <= time.monotonic() - before < PATIENCE
    await process.discard()
    assert not alive(seen)


@on_uvloop
async def test_kill_needs_nobody_to_read_the_output() -> None:
    process = await python("while True: print('x' * 1000)")
    await asyncio.sleep(0.3)
    process.kill()
    assert await process.wait() == await process.discard() == -9


@on_uvloop
async def test_stop_twice_and_after_the_end_does_no_harm() -> None:
    process = await shell("exit 4")
    codes = [await process.wait(), await process.stop(0), await process.stop(1)]
    assert [*codes, await process.discard()] == [4, 4, 4, 4]


@on_uvloop
async def test_two_may_wait_and_one_give_up() -> None:
    process = await shell("sleep 0.4; exit 5")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(process.wait(), 0.05)
    first, second = await asyncio.gather(process.wait(), process.wait())
    assert first == second == 5
    assert await process.discard() == 5


@on_uvloop
async def test_guard_that_is_killed_leaves_nothing_and_the_output_ends() -> None:
    process = await shell("sleep 300 & sleep 300 & echo up; wait")
    seen = await tree(process, 3)
    os.kill(process.pid, signal.SIGKILL)
    assert await output(process) == [b"up"]
    assert await process.wait() == -9
    await asyncio.to_thread(wait_until, lambda: not alive(seen), PATIENCE, "an end of the tree")


@on_uvloop
async def test_environment_is_what_it_is_given() -> None:
    # Without a locale of its own the guard's Python would set one.
    environ = {"ONLY": "this", "LC_ALL": "C.UTF-8"}
    lines = await output(await Process.start(("/usr/bin/env",), environ))
    assert sorted(lines) == [b"LC_ALL=C.UTF-8", b"ONLY=this"]
