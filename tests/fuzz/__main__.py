"""`python -m tests.fuzz TARGET --seconds N`: one target, guided by coverage.

Findings and what was learned of a target are kept in .cache/fuzz/TARGET; a finding stays a
finding when it is copied to tests/fuzz/cases/TARGET.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz.seeds import SEEDS, TOKENS

REPOSITORY = Path(__file__).resolve().parents[2]
_MAX_BYTES = 4096
_SLOWEST_SECONDS = 20


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", choices=sorted(SEEDS))
    parser.add_argument("--seconds", type=int, default=60)
    options = parser.parse_args(arguments)
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        print("python -m tests.fuzz: atheris is not installed (pip install atheris)")
        return 1
    with atheris.instrument_imports(include=["proxy", "tests.fuzz"]):
        target = importlib.import_module(f"tests.fuzz.{options.target}")
    atheris.Setup([sys.argv[0], *_libfuzzer_options(options.target, options.seconds)], target.run)
    atheris.Fuzz()  # ends the process itself
    return 0


def _libfuzzer_options(target: str, seconds: int) -> list[str]:
    folder = REPOSITORY / ".cache" / "fuzz" / target
    corpus, seeds = folder / "corpus", folder / "seeds"
    for each in (corpus, seeds):
        each.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[target]):
        (seeds / str(number)).write_bytes(seed)
    words = folder / "words"
    words.write_text("".join(f'"{_escaped(token)}"\n' for token in TOKENS[target]))
    limits = [
        f"-max_total_time={seconds}",
        f"-max_len={_MAX_BYTES}",
        f"-timeout={_SLOWEST_SECONDS}",
    ]
    return [*limits, f"-dict={words}", f"-artifact_prefix={folder}/", str(corpus), str(seeds)]


def _escaped(token: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in token)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
