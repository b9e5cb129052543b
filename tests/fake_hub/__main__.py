"""`python -m tests.fake_hub`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from tests.fake_hub.faults import Fault
from tests.fake_hub.hub import FakeHub
from tests.fake_hub.server import listen


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fake_hub")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--fault", type=Fault.parse, action="append", default=[])
    given = parser.parse_args(arguments)
    hub = FakeHub(given.root, given.fault, port=given.port)
    server = listen(hub)
    print(f"HF_ENDPOINT={hub.url}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
