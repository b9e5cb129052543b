"""The command line: `python3 -m proxy`, or `vllm-sidecar` where the package is installed.

Each command imports what it needs, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Sequence
from io import TextIOWrapper

from proxy.commands import complain

_STARTING = ("serve", "check")
_COMMANDS = (*_STARTING, "models", "keys", "bench")
# Of a stdout that takes no more: the disk is full, or who read it has left.
_NOT_PRINTED = (errno.ENOSPC, errno.EDQUOT, errno.EPIPE)


def main(arguments: Sequence[str]) -> int:
    """The exit code: 2 where an argument or a variable is wrong, after one line that says so."""
    from proxy.errors import SettingsError

    words = list(arguments)
    try:
        if not _command(words)[0]:
            from proxy.commands.command_line import names_a_preset

            if names_a_preset(words[0], words[1:], os.environ):
                words.insert(0, "serve")
        if _asks_for_help(words):
            from proxy.commands.help_text import long_help, short_help
            from proxy.installation import COMMAND

            print((long_help if words[0] in _STARTING else short_help)(COMMAND), end="")
            return 0
        command, rest = _command(words)
        match command, rest:
            case "serve", _:  # SageMaker says the word, too
                _use_options(rest)
                from proxy.commands.serve import serve

                return serve()
            case "check", _:
                _use_options(rest)
                from proxy.commands import check

                return check.main(os.environ)
            case "models", _:
                from proxy.commands import models

                return models.main(os.environ, *rest)
            case "keys", _ if len(rest) <= 1 and not "".join(rest).startswith("-"):
                from proxy.settings.keys import new_key_line

                print(new_key_line(*rest))
                return 0
            case "bench", _:
                from proxy.commands import bench

                return bench.main(os.environ, *rest)
        text = f"unknown command: {shlex.join(words)}"
        model = "a model: a preset, organisation/name, a folder as ./name"
        allowed = f"none, {', '.join(_COMMANDS)} and --help, or {model}"
        raise SettingsError(f"{text}; allowed are {allowed}")
    except SettingsError as error:
        complain(error)
        return 2
    except OSError as error:
        if error.errno in _NOT_PRINTED:
            return 1
        raise


def _command(words: list[str]) -> tuple[str, list[str]]:
    """The command, and the words after it. Options and a model alone mean `serve`."""
    if not words or words[0].startswith("-") or "/" in words[0] or words[0].startswith("demo"):
        return "serve", words
    return words[0] if words[0] in _COMMANDS else "", words[1:]


def _asks_for_help(words: list[str]) -> bool:
    """Whether it is answered by a text that needs no package."""
    command, rest = _command(words)
    return command in (*_STARTING, "keys") and bool({"--help", "-h"} & set(rest))


def _use_options(words: list[str]) -> None:
    """Put them into the environment: the engine and every child of ours read it there."""
    if not words:
        return
    from proxy.commands.command_line import with_options

    line = with_options(words, os.environ)
    for name in os.environ.keys() - line.environ.keys():
        del os.environ[name]
    os.environ.update(line.environ)
    for warning in line.warnings:
        complain(f"warning: {warning}")


def run() -> int:
    """What `vllm-sidecar` calls: the exit code."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:  # closed: a socket of ours would get its number
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r+"))
    if isinstance(sys.stdout, TextIOWrapper):  # as stderr: not every locale has all letters
        sys.stdout.reconfigure(errors="backslashreplace")
    words = sys.argv[1:]
    if _asks_for_help(words):  # a text that needs no package
        return _flushed(main(words))
    from importlib.metadata import PackageNotFoundError, requires

    from proxy.check_base import unmet

    lacking = ""
    try:  # `pip install --no-deps` has not looked
        lacking = ", ".join(unmet(requires("vllm-sidecar") or ()))
    except PackageNotFoundError:  # run from the checkout: `make run` has looked
        pass
    except ImportError as error:
        lacking = f"{error.name} (here: none)"
    if lacking:
        complain(f"{sys.executable} does not fit vllm-sidecar: {lacking}")
        return _flushed(2)
    return _flushed(main(words))


def _flushed(code: int) -> int:
    """The exit code, when all that was printed is out: Python would make it 120 where it is not."""
    for stream, code_of_failure in ((sys.stdout, code or 1), (sys.stderr, code)):
        try:
            stream.flush()
        except OSError:
            code = code_of_failure
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return code


if __name__ == "__main__":
    sys.exit(run())
