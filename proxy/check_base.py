"""Whether a Python has what the sidecar runs on: into vLLM's image nothing is installed.

    python3 check_base.py requirements.txt

Run while the image is built: a base that lacks something fails there, not in front of a user. The
command `vllm-sidecar` asks the same of its own metadata before it starts. It needs no other module
of ours.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

MODULES = """
starlette httpx prometheus_client huggingface_hub msgspec httptools
uvloop pydantic aiohttp yarl
"""


def unmet(requirements: Iterable[str]) -> Iterator[str]:
    """A clause for each requirement that this Python does not meet; extras are left out.

    Raises:
        ImportError: `packaging`, which huggingface_hub and vLLM need too, is missing.
    """
    from packaging.requirements import Requirement

    for need in map(Requirement, requirements):
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(need.name)
        except PackageNotFoundError:
            have = "none"
        if have == "none" or not need.specifier.contains(have, prereleases=True):
            yield f"{need.name}{need.specifier} (here: {have})"


def main(requirements: Path) -> None:
    """Imports everything, and holds the versions against `requirements`.

    Raises:
        ImportError: a module is missing.
        SystemExit: a version is outside its bounds.
    """
    for name in MODULES.split():
        import_module(name)
    lines = [line.strip() for line in requirements.read_text().splitlines()]
    if lacking := ", ".join(unmet(line for line in lines if line and line[0] != "#")):
        raise SystemExit(f"the image does not fit: {lacking}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
