"""Paths by which whoever reaches a vLLM controls it."""

from __future__ import annotations

import re

import pytest

from proxy.vllm.control import is_control_path
from tests.tools import installed

_ROUTE = re.compile(r'@router\.(?:get|post|put|delete)\(\s*"([^"]+)"')


@pytest.mark.parametrize(
    "path", ["/sleep", "/SLEEP/", "/v1/../sleep", "//wake_up", "/%73leep", "/sleep;a", "/pause?x"]
)
def test_however_it_is_written(path: str) -> None:
    assert is_control_path(path)


@pytest.mark.parametrize("path", ["/load", "/openapi.json", "/v1/sleepy", "/inference/v1/generate"])
def test_what_reads_or_generates_is_none(path: str) -> None:
    assert not is_control_path(path)


def test_every_route_that_dev_mode_adds_to_the_installed_vllm() -> None:
    entrypoints = installed("vllm") / "entrypoints"
    folders = ("serve/dev", "serve/elastic_ep", "serve/fault_tolerance", "serve/profile", "rl")
    paths = {
        path
        for folder in folders
        for file in (entrypoints / folder).rglob("*.py")
        for path in _ROUTE.findall(file.read_text())
    }
    assert {"/sleep", "/wake_up", "/collective_rpc", "/weight_checker"} <= paths
    assert {path for path in paths if not is_control_path(path)} == set()
