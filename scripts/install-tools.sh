#!/usr/bin/env bash
# Installs what tests and checks need beside Python packages: Prometheus with promtool, and
# Chromium, from Debian's or Ubuntu's packages. A second run does nothing.
#
#   scripts/install-tools.sh
#   scripts/install-tools.sh image     what `make image` needs: podman, buildah and what they call
#
# Only where this is root's to do: elsewhere it says what is missing, and the tests that need it
# are skipped. With REQUIRE_TOOLS=1 (as in CI) what is missing is an error.
set -euo pipefail

TOOLS=(prometheus promtool chromium)
PACKAGES=(prometheus chromium)
if [[ "${1:-}" == image ]]; then
  TOOLS=(podman buildah runc debootstrap)
  PACKAGES=("${TOOLS[@]}")
fi

say() { printf 'install-tools: %s\n' "$*" >&2; }

missing() {
  local tool
  for tool in "${TOOLS[@]}"; do
    command -v "$tool" >/dev/null || printf '%s\n' "$tool"
  done
}

# On a machine with systemd the package would start a Prometheus server: not without being asked.
can_install() {
  [[ "$(id -u)" == 0 && ! -d /run/systemd/system ]] && command -v apt-get >/dev/null
}

install() {
  say "installing ${PACKAGES[*]} (a minute or two)"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}" >&2
}

main() {
  local lacking
  lacking="$(missing)"
  [[ -n "$lacking" ]] || return 0
  if can_install; then
    install || say "apt-get failed (its own message is above)"
    lacking="$(missing)"
    [[ -n "$lacking" ]] || return 0
  fi
  say "not here: ${lacking//$'\n'/, }; the tests that need them are skipped." \
    "To have them: apt-get install ${PACKAGES[*]}"
  [[ -z "${REQUIRE_TOOLS:-}" ]]
}

main
