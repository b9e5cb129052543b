"""Whether the image's Python has what the sidecar runs on: none of it is installed into the image.

Run while the image is built: a base that lacks something fails there, not in front of a user.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from packaging.requirements import Requirement

MODULES = """
fastapi httpx prometheus_client huggingface_hub msgspec httptools
uvloop websockets pydantic aiohttp yarl
"""


def main(requirements: Path) -> None:
    """Imports everything, and holds the versions against `requirements`.

    Raises:
        ImportError: a module is missing.
        SystemExit: a version is outside its bounds.
    """
    for name in MODULES.split():
        import_module(name)
    lines = [line.strip() for line in requirements.read_text().splitlines()]
    for need in [Requirement(line) for line in lines if line and line[0] != "#"]:
        if need.marker is None or need.marker.evaluate():
            have = version(need.name)
            if not need.specifier.contains(have, prereleases=True):
                raise SystemExit(f"{need}: the image has {have}")
            print(need.name, have)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
