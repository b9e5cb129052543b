#!/usr/bin/env bash
# Has Prometheus itself read what is shipped for it, and runs the alerts' own tests.
# Without promtool nothing is checked, and with REQUIRE_TOOLS=1 that is an error.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! command -v promtool >/dev/null; then
  echo "check-monitoring: not checked: no promtool (scripts/install-tools.sh)" >&2
  [[ -z "${REQUIRE_TOOLS:-}" ]]
  exit
fi
# It reads the rules that the configuration names, too.
promtool check config monitoring/prometheus.yml
promtool test rules tests/monitoring/alerts.test.yml
