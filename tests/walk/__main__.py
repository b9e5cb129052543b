"""`python -m tests.walk FILE`: the sidecar. SIGUSR1 begins to note which files of `proxy/` have a
function that is called, in order of the first call; SIGUSR2 writes their names to FILE."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import FrameType

import proxy
from proxy.__main__ import main

_ROOM = f"{Path(proxy.__file__).parent}/"
_walked: dict[str, None] = {}


def _note(frame: FrameType, event: str, argument: object) -> None:
    name = frame.f_code.co_filename
    if event == "call" and name.startswith(_ROOM):
        _walked.setdefault(name.removeprefix(_ROOM))


def _begin(number: int, frame: FrameType | None) -> None:
    _walked.clear()
    sys.setprofile(_note)


def _end(number: int, frame: FrameType | None) -> None:
    sys.setprofile(None)
    unfinished = Path(sys.argv[-1] + ".part")
    unfinished.write_text(json.dumps(list(_walked)))
    unfinished.rename(sys.argv[-1])


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, _begin)
    signal.signal(signal.SIGUSR2, _end)
    sys.exit(main([]))
