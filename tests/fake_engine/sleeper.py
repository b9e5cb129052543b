"""A child that only sleeps, under the names of vLLM's processes; run as a script, by path.

`argv[0]` is `VLLM::EngineCore` or `VLLM::Worker`, the last argument the number of workers below
this one. It keeps stdout open as vLLM's children do, survives the SIGKILL of its parent, ends at
SIGTERM, and in any case after ten minutes.
"""

import subprocess
import sys
import time
from pathlib import Path

LONGEST_SECONDS = 600


def spawn(name: str, below: int) -> "subprocess.Popen[bytes]":
    """Start a sleeper called `name`, and below it so many workers."""
    command = [name, "-I", "-S", __file__, name, str(below)]
    # Under a made-up argv[0] a sleeper's own sys.executable is empty.
    return subprocess.Popen(command, executable=Path("/proc/self/exe").resolve())


if __name__ == "__main__":
    # The kernel keeps 15 bytes: EngineCore shows as VLLM::EngineCor, as with the real one.
    Path("/proc/self/comm").write_text(sys.argv[1])
    for _ in range(int(sys.argv[2])):
        spawn("VLLM::Worker", 0)
    time.sleep(LONGEST_SECONDS)
