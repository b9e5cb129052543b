"""Writes deploy/k8s/monitoring/rules.yaml from monitoring/rules.yml and alerts.yml.

    python scripts/prometheus_rule.py [--check] [--runbook-url URL]

`--check` writes nothing and exits with 1 where the file is stale. `--runbook-url` is for those who
publish docs/runbook.md: each alert then has `runbook_url`, of which Alertmanager's templates and
Grafana make a link, as URL#diskfull. What is shipped has no such address, for there is none that
everybody could open; its `runbook` is a path in the repository.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
SOURCES = (ROOT / "monitoring" / "rules.yml", ROOT / "monitoring" / "alerts.yml")
TARGET = ROOT / "deploy" / "k8s" / "monitoring" / "rules.yaml"
HEAD = "# Written by scripts/prometheus_rule.py from monitoring/rules.yml and alerts.yml.\n"

Manifest = dict[str, Any]


def prometheus_rule(runbook_url: str | None = None) -> Manifest:
    """The manifest; the groups in the order of the files."""
    groups = [group for path in SOURCES for group in yaml.safe_load(path.read_text())["groups"]]
    if runbook_url is not None:
        for annotations in (rule["annotations"] for group in groups for rule in alerts(group)):
            _, _, anchor = annotations["runbook"].partition("#")
            annotations["runbook_url"] = f"{runbook_url}#{anchor}"
    labels = {"app.kubernetes.io/name": "vllm-sidecar"}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "vllm-sidecar", "labels": labels},
        "spec": {"groups": groups},
    }


def alerts(group: Manifest) -> list[Manifest]:
    return [rule for rule in group["rules"] if "alert" in rule]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    parser.add_argument("--runbook-url", metavar="URL", help="where you publish docs/runbook.md")
    options = parser.parse_args(arguments)
    manifest = prometheus_rule(options.runbook_url)
    text = HEAD + yaml.safe_dump(manifest, sort_keys=False, width=100, allow_unicode=True)
    if not options.check:
        TARGET.write_text(text, encoding="utf-8")
    elif not TARGET.exists() or TARGET.read_text(encoding="utf-8") != text:
        print(f"{TARGET}: stale; run .venv/bin/python scripts/prometheus_rule.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
