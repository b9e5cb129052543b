"""Alerts, their runbook and their cases hold together, and ask for metrics that there are."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.monitoring.metric_names import known, names_in

ROOT = Path(__file__).resolve().parents[2]
CASES = ROOT / "tests/monitoring/alerts.test.yml"
PARTS = ("Symptom", "First look", "Remedy")


@cache
def document(path: str | Path) -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / path).read_text())
    assert isinstance(loaded, dict)
    return loaded


def rules(path: str) -> list[dict[str, Any]]:
    return [rule for group in document(path)["groups"] for rule in group["rules"]]


ALERTS = {rule["alert"]: rule for rule in rules("monitoring/alerts.yml")}


def runbook() -> dict[str, str]:
    """Heading -> what stands below it."""
    text = (ROOT / "docs/runbook.md").read_text()
    found = re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return dict(found)


def test_every_alert_has_its_section_in_the_runbook_and_no_other_has() -> None:
    assert list(runbook()) == list(ALERTS)


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_how_bad_it_is_what_happened_and_where_to_read_on(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("critical", "warning", "info")
    assert alert["annotations"]["summary"].endswith(".")
    assert alert["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"


@pytest.mark.parametrize("name", ALERTS)
def test_a_section_has_a_symptom_a_first_look_and_a_remedy(name: str) -> None:
    said = re.findall(r"^- \*\*([\w ]+):\*\* (\S+)", runbook()[name], re.MULTILINE)
    assert tuple(part for part, _ in said) == PARTS


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_is_seen_to_fire_and_to_be_quiet(name: str) -> None:
    cases = [case for test in document(CASES)["tests"] for case in test["alert_rule_test"]]
    expected = [bool(case["exp_alerts"]) for case in cases if case["alertname"] == name]
    assert set(expected) == {True, False}


@pytest.mark.parametrize("path", ["monitoring/rules.yml", "monitoring/alerts.yml"])
def test_rules_ask_for_metrics_that_there_are(path: str) -> None:
    recorded = {rule["record"] for rule in rules("monitoring/rules.yml")}
    asked = {name for rule in rules(path) for name in names_in(rule["expr"])}
    assert asked
    assert asked - recorded - known() == set()
