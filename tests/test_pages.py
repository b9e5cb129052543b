"""What README and the pages name is there: variables, files, targets, commands, profiles, jobs."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
import yaml

from proxy.__main__ import _COMMANDS
from proxy.access.routes import RouteTable
from proxy.commands import models
from proxy.commands.bench import parser as bench_parser
from proxy.commands.command_line import with_options
from proxy.errors import SettingsError
from proxy.settings import variables
from proxy.vllm.flags import flag_name, known_flags
from tests.readme import ROOT, blocks, commands

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
EACH = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)

OURS = {name for spellings in variables().values() for name in spellings}
# Variables of other programs: of vLLM, OpenTelemetry, platforms, Compose, the tests and clients.
PREFIXES = ("VLLM_", "OTEL_", "SM_VLLM_", "VAST_", "GATEWAY_", "ANTHROPIC_", "PYTORCH_")
OTHERS = {
    "BENCH_BEFORE",
    "BENCH_PYTHON",
    "COMPOSE_FILE",
    "CUDA_VISIBLE_DEVICES",
    "GRAFANA_ADMIN_PASSWORD",
    "HF_HUB_CACHE",
    "HTTP_PROXY",
    "MAX_CONCURRENCY",
    "MIXED_RUN_ROUNDS",
    "NO_COLOR",
    "OPENAI_API_KEY",
    "POD_ID",
    "PUBLIC_IPADDR",
    "SIDECAR_URL",
    "SOAK_KILLS",
    "SOAK_SWAPS",
    "UI_PASSWORD",
}
# What its reader makes.
MADE = {"deploy/gateway/.env"}


@EACH
def test_variables_of_a_page_are_known(page: Path) -> None:
    named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?:=[^`]*)?`", page.read_text()))
    strange = {name for name in named - OURS - OTHERS if not name.startswith(PREFIXES)}
    unknown = {name for name in strange if flag_name(name) not in known_flags()}
    assert unknown == set(), "neither declared, nor a flag of vLLM's, nor in OTHERS"


@EACH
def test_files_of_a_page_are_there(page: Path) -> None:
    folders = "scripts|deploy|monitoring|examples|tests|bench|proxy|docs"
    named = re.findall(rf"(?<![\w./-])((?:{folders})/[\w./-]*\w)", page.read_text())
    assert {path for path in named if not (ROOT / path).exists()} - MADE == set()


@EACH
def test_targets_of_a_page_are_ones_of_the_makefile(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = re.findall(r"(?:`|\$ (?:\w+=\S+ )*)make ([a-z]+)", page.read_text())
    assert set(named) <= targets


@EACH
def test_profiles_of_a_page_are_ones_of_compose(page: Path) -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"].values()
    profiles = {profile for service in services for profile in service.get("profiles", ())}
    named = set(re.findall(r"compose[^`\n]*--profile ([a-z-]+)", page.read_text()))
    assert named <= profiles


@EACH
def test_commands_of_a_page_can_be_pasted(page: Path) -> None:
    """Each line that is typed begins with `$ `, and a shell can parse what is behind it."""
    for block in blocks(str(page.relative_to(ROOT)), "console"):
        assert block.startswith("$ "), block
        for command in commands(block):
            done = subprocess.run(
                ["bash", "-n"], input=command, capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"


# Commands --------------------------------------------------------------------------------------

OF_US = ("python3 -m proxy", ".venv/bin/python -m proxy", "vllm-sidecar", "scripts/start.sh")
# `vllm-sidecar` is also the name of what is no command.
IN_TEXT = re.compile(r"`((?:python3 -m proxy|\.venv/bin/python -m proxy|scripts/[^`\s]+) [^`]+)`")
# Paths that are not the sidecar's: of the gateway, and of the protocol that a page shows how to
# write.
OF_OTHERS = {"/key/generate", "/api/generate"}
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


def simple_commands(page: Path) -> list[list[str]]:
    """What a page tells to type, as words, without variables in front and what output goes to."""
    path = str(page.relative_to(ROOT))
    lines = [command for block in blocks(path, "console") for command in commands(block)]
    lines += IN_TEXT.findall(page.read_text())
    found: list[list[str]] = []
    for line in lines:
        found.append([])
        for word in split_at_operators(line):
            if word in ("&&", "||", "|", ";", ">"):
                found.append([])
            elif found[-1] or not _ASSIGNMENT.match(word):
                found[-1].append(word)
    return [typed for typed in found if typed]


def split_at_operators(command: str) -> list[str]:
    """A command's words and operators, without what it prints, which is below it."""
    lines = command.replace("\\\n", " ").split("\n")
    for count in range(1, len(lines) + 1):
        lexer = shlex.shlex("\n".join(lines[:count]), posix=True, punctuation_chars="&|;>")
        lexer.whitespace_split = True
        with suppress(ValueError):  # a quote has no end yet
            return list(lexer)
    raise AssertionError(command)


def arguments_of_ours(typed: list[str]) -> list[str] | None:
    """What stands behind the sidecar's own command; None: it is another."""
    for command in OF_US:
        length = len(command.split())
        if typed[:length] == command.split() and typed[-1] != "clone":
            return typed[length:]
    return None


def check_arguments(arguments: list[str]) -> None:
    """Raises SettingsError or SystemExit where the command would not know them."""
    command = arguments[0] if arguments else "serve"
    if "--help" in arguments:
        assert arguments[0] == "--help" or arguments[0] in _COMMANDS
    elif command == "bench":
        bench_parser().parse_args(arguments[1:])
    elif command == "models":
        models.main({}, *arguments[1:])
    elif command == "keys":
        assert len(arguments) <= 2
    else:
        with_options(arguments[1:] if command in _COMMANDS else arguments, {})


def test_what_is_no_command_of_ours_is_noticed() -> None:
    for wrong in (
        ["bench", "--streams", "8"],
        ["models", "--gb", "24"],
        ["check", "--ports", "1"],
    ):
        with pytest.raises(SettingsError):
            check_arguments(wrong)


@EACH
def test_our_commands_of_a_page_have_arguments_that_are_taken(page: Path) -> None:
    for typed in simple_commands(page):
        arguments = arguments_of_ours(typed)
        if arguments is not None and "..." not in arguments:
            check_arguments(arguments)


@EACH
def test_scripts_of_a_page_have_the_options_that_are_typed(page: Path) -> None:
    for typed in simple_commands(page):
        scripts = [word for word in typed[:2] if word.startswith("scripts/")]
        for script in scripts:
            text = (ROOT / script).read_text()
            if script not in OF_US:
                options = {word.partition("=")[0] for word in typed if word.startswith("--")}
                assert {each for each in options if each not in text} == set(), script


@EACH
def test_curl_asks_for_paths_that_are_there(page: Path) -> None:
    table = RouteTable()
    answered = json.loads((ROOT / "proxy/api/openapi.json").read_text())["paths"]
    for typed in simple_commands(page):
        if typed[:1] != ["curl"]:
            continue
        urls = [word for word in typed if re.match(r"(https?://|localhost:)", word)]
        assert len(urls) == 1, typed
        path = "/" + re.sub(r"^https?://", "", urls[0]).partition("/")[2].partition("?")[0]
        is_ours = path in answered or table.find(path.encode()) is not None
        assert is_ours or path in OF_OTHERS, path


def test_runpod_is_scraped_as_compose_scrapes() -> None:
    """The same two jobs, by HTTPS and with a key."""
    (text,) = blocks("docs/runpod.md", "yaml")
    there = {job["job_name"]: job for job in yaml.safe_load(text)["scrape_configs"]}
    compose = yaml.safe_load((ROOT / "monitoring/prometheus.yml").read_text())["scrape_configs"]
    here = {job["job_name"]: job["metrics_path"] for job in compose}
    assert {name: job["metrics_path"] for name, job in there.items()} == here
    assert all(job["scheme"] == "https" and job["authorization"] for job in there.values())
    assert len({str(job["static_configs"]) for job in there.values()}) == 1
