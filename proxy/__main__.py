"""The command line: `python3 -m proxy`, or `vllm-sidecar` where the package is installed.

Each command imports what it needs, so that `--help` answers at once.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence

HELP = """\
python3 -m proxy          start the engine and serve it; environment variables are the settings
python3 -m proxy check    find out whether that would work, in seconds: 0 yes, 1 no, 2 bad settings
python3 -m proxy models   list the presets, and which fit this GPU or one of `--gpu-gb 24`
python3 -m proxy keys     make an API key, as label:key; `keys LABEL` calls it so
python3 -m proxy --help   this text; docs/configuration.md has the variables
"""


def main(arguments: Sequence[str]) -> int:
    match list(arguments):
        case [] | ["serve"]:  # SageMaker calls the latter
            from proxy.commands.serve import serve

            return serve()
        case ["check"]:
            from proxy.commands import check

            return check.main(os.environ)
        case ["models", *options]:
            from proxy.commands import models

            return models.main(os.environ, *options)
        case ["keys", *label] if len(label) <= 1:
            from proxy.commands import keys

            return keys.main(*label)
        case ["--help" | "-h"]:
            print(HELP, end="")
            return 0
    words = shlex.join(arguments)
    allowed = "none, serve, check, models, keys and --help"
    print(f"unknown command: {words}; allowed are {allowed}", file=sys.stderr)
    return 2


def run() -> int:
    """What `vllm-sidecar` calls: the exit code."""
    words = sys.argv[1:]
    if words not in (["--help"], ["-h"]) and (lacking := _lacking()):
        print(f"{sys.executable} does not fit vllm-sidecar: {lacking}", file=sys.stderr)
        return _flushed(2)
    return _flushed(main(words))


def _lacking() -> str:
    """What does not fit of the packages here; `pip install --no-deps` has not looked."""
    from importlib.metadata import PackageNotFoundError, requires

    from proxy.check_base import unmet

    try:
        return ", ".join(unmet(requires("vllm-sidecar") or ()))
    except PackageNotFoundError:  # run from the checkout: `make run` has looked
        return ""
    except ImportError as error:
        return f"{error.name} (here: none)"


def _flushed(code: int) -> int:
    """The exit code, when all that was printed is out: Python would make it 120 where it is not."""
    for stream, code_of_failure in ((sys.stdout, code or 1), (sys.stderr, code)):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            code = code_of_failure
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


if __name__ == "__main__":
    sys.exit(run())
