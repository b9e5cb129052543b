"""`python -m tests.fake_engine [serve MODEL] [--port 0] ...`: a fake `vllm serve`."""

from __future__ import annotations

import asyncio
import gc
import os
import sys

from . import options, scenario
from .life import Life


async def _live(chosen: options.Options) -> None:
    life = Life(chosen, scenario.read(os.environ))
    life.start()
    await life.serve()


def main() -> None:
    """Run until the scripted end."""
    if sys.argv[1:2] == ["--version"]:
        print("0.32.0")
        return
    chosen = options.parse(sys.argv[1:], os.environ)
    if not chosen.tick_ms:
        asyncio.run(_live(chosen))
        return
    gc.freeze()
    try:
        import uvloop
    except ImportError:
        asyncio.run(_live(chosen))
        return
    # uvloop joins the writes of one loop turn, which byte control cannot have; speed mode can.
    uvloop.run(_live(chosen))


if __name__ == "__main__":
    main()
