"""`python3 -m proxy bench`: a load test of any OpenAI endpoint.

Sends streamed chats to URL, so many at once, and says how many keep an objective.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import uvloop

from proxy.bench.endpoint import Endpoint
from proxy.bench.load import LevelRun, prepare
from proxy.bench.plan import Load, Plan
from proxy.bench.progress import shown
from proxy.bench.report import comparison, report
from proxy.bench.result import Level, Run, json_of, read_run
from proxy.commands import complain
from proxy.errors import BenchFailure, SettingsError
from proxy.installation import COMMAND
from proxy.server.listener import allow_many_connections
from proxy.settings import Settings
from proxy.settings.values import is_url

_MOST_STREAMS = 4096
_MOST_TOKENS = 10**6
_LOAD_FIELDS = Load.__struct_fields__
_PATHS = ("/v1/chat/completions", "/chat/completions", "/v1")
_EPILOG = """\
Exit codes: 0 measured, and a level keeps the objective; 1 none does, or nothing could be measured;
2 an argument is wrong; 128 + N ended by signal N, with what was measured until then.
The key comes from OPENAI_API_KEY or --key-file, the price of a GPU from GPU_PRICE_PER_HOUR.
A level takes at most 2 x --seconds. docs/measuring.md says how to read the figures."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, with the nearest option where one is unknown."""
        _, colon, words = message.partition("unrecognized arguments: ")
        if colon:  # the first alone: a key may be behind it
            word = words.split(" ")[0].partition("=")[0]
            near = get_close_matches(word, self._option_string_actions, n=1)
            hint = f"did you mean {near[0]}?" if near else "bench --help lists the options"
            if "key" in word:
                hint = "the key comes from OPENAI_API_KEY or --key-file"
            message = f"unexpected argument: {word}; {hint}"
        raise SettingsError(f"bench: {message}")


def main(environ: Mapping[str, str], *arguments: str) -> int:
    """Measure and print, or compare two files. Returns the exit code."""
    given = parser().parse_args(arguments)
    before = read_run(given.compare) if given.compare is not None else None
    if before is not None and given.url is not None and "://" not in given.url:
        others = [name for name, value in vars(given).items() if value is not None]
        if len(others) > 2:
            text = "two files are compared without measuring; allowed is no other option"
            raise SettingsError(f"bench: {text}, or a URL in place of {given.url}")
        _print(comparison(before, read_run(given.url)))
        return 0
    plan = _plan(given, environ, before)
    _check_writable(given.json)
    allow_many_connections()
    try:
        run, signal_number = uvloop.run(_measure(plan))
    except BenchFailure as error:
        complain(error)
        return 1
    except KeyboardInterrupt:  # before the first level
        complain("interrupted: nothing was measured")
        return 128 + signal.SIGINT
    code = 128 + signal_number if signal_number else 0 if run.best is not None else 1
    try:
        if given.json == "-":
            sys.stdout.write(json_of(run).decode())
        elif given.json is not None:
            Path(given.json).write_bytes(json_of(run))
    except OSError as error:
        complain(f"--json {given.json}: {error.strerror}")
        code = code or 1
    if given.json != "-":
        _print(report(run))
        if before is not None:
            _print(("", *comparison(before, run)))
    return code


def _print(lines: Iterable[str]) -> None:
    """Names and messages of others may hold what a terminal obeys."""
    for line in lines:
        print("".join(letter if letter.isprintable() else "?" for letter in line))


def parser() -> argparse.ArgumentParser:
    result = _Parser(
        prog=f"{COMMAND} bench",
        description=(__doc__ or "").partition("\n\n")[2],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = result.add_argument
    add("url", nargs="?", metavar="URL", help="the endpoint, by default http://127.0.0.1:$PORT")
    add("--model", help="by default the first that /v1/models lists")
    add(
        "--concurrency",
        dest="levels",
        type=_levels,
        metavar="1,8,32",
        help="streams at once, a level each",
    )
    add("--seconds", type=_number(0.1, 3600), metavar="20", help="how long a level begins requests")
    add(
        "--slo-ttft-ms",
        type=_number(0.001, 1e9),
        metavar="2000",
        help="the objective: 95 %% of requests have their first token within it",
    )
    add("--input-tokens", type=_count(1, _MOST_TOKENS), metavar="256", help="of each prompt")
    add("--output-tokens", type=_count(1, _MOST_TOKENS), metavar="128", help="of each answer")
    add("--images", type=_count(0, 100), metavar="N", help="pictures in each prompt, all different")
    add("--image-size", type=_count(1, 2048), metavar="256", help="pixels a side")
    add(
        "--same-prompt",
        action="store_true",
        default=None,
        help="the same prompt each time, which a prefix cache answers; by default each is new",
    )
    add("--key-file", metavar="FILE", help="holds the API key")
    add("--gpus", type=_count(1, 10_000), metavar="1", help="GPUs that the endpoint has, for costs")
    add("--json", metavar="FILE", help="write what was measured; - is stdout, without the table")
    add(
        "--compare",
        metavar="FILE",
        help="of --json: send the same load, and print both; "
        "with a second such FILE for URL, compare the two",
    )
    return result


def _plan(given: argparse.Namespace, environ: Mapping[str, str], before: Run | None) -> Plan:
    """What was given, else what the run before had, else the defaults.

    Raises:
        SettingsError: the URL, the key or a variable cannot be used.
    """
    if given.model is not None and not given.model.strip():
        text = "argument --model: it is empty; allowed is a name of /v1/models"
        raise SettingsError(f"bench: {text}")
    settings = Settings.load(environ)
    wanted: dict[str, Any] = {name: getattr(before or Load(), name) for name in _LOAD_FIELDS}
    if before is not None and before.levels:
        wanted["levels"] = tuple(level.streams for level in before.levels)
    options = {name: value for name, value in vars(given).items() if value is not None}
    wanted |= {name: options[name] for name in (*_LOAD_FIELDS, "levels") if name in options}
    wanted["gpu_price_per_hour"] = settings.gpu_price_per_hour
    return Plan(
        url=_url(given.url or f"http://127.0.0.1:{settings.port}"),
        key=_key(given.key_file, settings.environ),
        model=given.model,
        **wanted,
    )


def _url(text: str) -> str:
    """The endpoint without the `/v1` that clients' base URLs have."""
    allowed = "allowed is http://HOST:PORT or https://HOST, with or without /v1"
    if "@" in text:
        raise SettingsError("the URL has a password; give the key by OPENAI_API_KEY or --key-file")
    if not re.fullmatch(r"https?://[^?#]+", text, re.IGNORECASE) or not is_url(text):
        raise SettingsError(f"{text!r} is no URL of an endpoint; {allowed}")
    parts = urlsplit(text)
    path = parts.path.rstrip("/")
    suffix = next((suffix for suffix in _PATHS if path.endswith(suffix)), "")
    return f"{parts.scheme}://{parts.netloc}{path.removesuffix(suffix)}"


def _key(file: str | None, environ: Mapping[str, str]) -> str | None:
    """The API key, which no message has in it."""
    name, key = "OPENAI_API_KEY", environ.get("OPENAI_API_KEY", "")
    if file is not None:
        name = f"--key-file {file}"
        try:
            key = Path(file).read_text(encoding="utf-8-sig").strip()
        except OSError as error:
            raise SettingsError(f"{name}: {error.strerror}; allowed is a file with a key") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{name}: it holds no text; allowed is a file with a key") from None
        if not key:
            raise SettingsError(f"{name}: it is empty; allowed is a file with a key")
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise SettingsError(f"{name}: this is no key; allowed are ASCII characters without blanks")
    return key or None


def _check_writable(file: str | None) -> None:
    """Before minutes are spent on a result that cannot be kept."""
    if file is None or file == "-":
        return
    path = Path(file)
    if path.is_dir():
        raise SettingsError(f"--json {file}: it is a folder; allowed is a file, or -")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise SettingsError(f"--json {file}: it cannot be written; allowed is another file, or -")


def _count(least: int, most: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if re.fullmatch(r"\d{1,9}", text, re.ASCII) and least <= int(text) <= most:
            return int(text)
        raise argparse.ArgumentTypeError(
            f"{text!r}; allowed is a whole number from {least} to {most}"
        )

    return read


def _number(least: float, most: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if least <= value <= most:
            return value
        raise argparse.ArgumentTypeError(f"{text!r}; allowed is a number from {least} to {most:g}")

    return read


def _levels(text: str) -> tuple[int, ...]:
    try:
        levels = {_count(1, _MOST_STREAMS)(one.strip()) for one in text.split(",")}
    except argparse.ArgumentTypeError:
        allowed = f"allowed are numbers from 1 to {_MOST_STREAMS}, as 1,8,32"
        raise argparse.ArgumentTypeError(f"{text!r}; {allowed}") from None
    return tuple(sorted(levels))


async def _measure(plan: Plan) -> tuple[Run, int]:
    """All levels; and the signal that ended them early, else 0.

    Raises:
        BenchFailure: the endpoint answers nothing that could be measured.
    """
    started = datetime.now(UTC).isoformat(timespec="seconds")
    stop, signals, levels = asyncio.Event(), list[int](), list[Level]()

    def end(number: int) -> None:
        signals.append(number)
        stop.set()

    async with Endpoint(plan) as endpoint:
        model = plan.model or await endpoint.first_model()
        prompts, has_usage = await prepare(endpoint, plan, model)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, end, number)
        for streams in plan.levels:
            level = LevelRun(endpoint, streams, plan)
            async with shown(level, plan.seconds):
                measured = await level.run(prompts.next, stop)
            if measured.finished or not stop.is_set():
                levels.append(measured)
            if stop.is_set() or not measured.finished:
                break
    load: dict[str, Any] = {name: getattr(plan, name) for name in _LOAD_FIELDS}
    run = Run(
        **load,
        url=plan.url,
        model=model,
        measured_at=started,
        without=prompts.without,
        has_usage=has_usage,
        interrupted=stop.is_set(),
        levels=tuple(levels),
    )
    return run, signals[0] if signals else 0
