"""The Python by which what is written in Python is measured: one that was compiled as users' is.

Distributions and vLLM's image ship an interpreter that was compiled with a profile of itself. One
that was built from source without, as pyenv does, takes a seventh more for the same token.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from functools import cache

VARIABLE = "BENCH_PYTHON"
_SYSTEM = f"/usr/bin/python{sys.version_info.major}.{sys.version_info.minor}"
_SECONDS = 60.0
# It has to be able to load what was compiled for the environment's own interpreter.
_NEEDS = "import httptools, msgspec, pydantic_core, uvloop"


@cache
def interpreter() -> str:
    """What BENCH_PYTHON names, or else the system's where it is of our version, or else our own.

    Raises:
        SystemExit: the one that was named cannot load the packages.
    """
    named = os.environ.get(VARIABLE)
    if named and not _fits(named):
        raise SystemExit(f"bench: {VARIABLE}={named} cannot load the packages of {sys.prefix}")
    return named or (_SYSTEM if _fits(_SYSTEM) else sys.executable)


def described() -> str:
    """Its version and where it is."""
    code = "import platform; print(platform.python_version())"
    done = subprocess.run(
        [interpreter(), "-c", code], capture_output=True, text=True, timeout=_SECONDS, check=True
    )
    return f"{done.stdout.strip()} ({interpreter()})"


def packages() -> dict[str, str]:
    """The variable by which it finds the packages of our own environment."""
    return {"PYTHONPATH": sysconfig.get_path("platlib")}


def _fits(path: str) -> bool:
    try:
        done = subprocess.run(
            [path, "-c", _NEEDS],
            env={**os.environ, **packages()},
            capture_output=True,
            timeout=_SECONDS,
        )
    except OSError:
        return False
    return done.returncode == 0
