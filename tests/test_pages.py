"""What README and the pages name is there: variables, files, targets, commands, profiles, jobs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

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
    "UI_PASSWORD",
}
# What its reader makes.
MADE = {"deploy/gateway/.env"}


@EACH
def test_variables_of_a_page_are_known(page: Path) -> None:
    named = set(re.findall(r"`([A-Z][A-Z0-9]*_[A-Z0-9_]+)(?:=[^`]*)?`", page.read_text()))
    strange = {name for name in named - OURS - OTHERS if not name.startswith(PREFIXES)}
    assert {name for name in strange if flag_name(name) not in known_flags()} == set()


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


def test_runpod_is_scraped_as_compose_scrapes() -> None:
    """The same two jobs, by HTTPS and with a key."""
    (text,) = blocks("docs/runpod.md", "yaml")
    there = {job["job_name"]: job for job in yaml.safe_load(text)["scrape_configs"]}
    compose = yaml.safe_load((ROOT / "monitoring/prometheus.yml").read_text())["scrape_configs"]
    here = {job["job_name"]: job["metrics_path"] for job in compose}
    assert {name: job["metrics_path"] for name, job in there.items()} == here
    assert all(job["scheme"] == "https" and job["authorization"] for job in there.values())
    assert len({str(job["static_configs"]) for job in there.values()}) == 1
