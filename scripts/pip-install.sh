#!/usr/bin/env bash
# `pip install` into the environment of PYTHON, by uv where that can: in a tenth of the time.
#
#   scripts/pip-install.sh PYTHON REQUIREMENT...
#
# uv is looked for beside PYTHON, in .venv and on the PATH. It reads no configuration of pip's, so it is
# told where pip would look. Where it is not here, or fails, pip installs, and says what is wrong.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="$1"
shift

# The value of an option of pip's: what the environment says counts before its files.
setting() {
  sed -nE "s/^(:env:|global|install)\.$1='(.*)'\$/\2/p" <<<"$CONFIGURATION" | head -n 1
}

# install_by UV REQUIREMENT...
install_by() {
  local uv="$1" option value cert options=()
  shift
  CONFIGURATION="$("$PYTHON" -m pip --disable-pip-version-check config list)" || return
  for option in index-url extra-index-url find-links constraint; do
    for value in $(setting "$option"); do
      options+=("--$option" "$value")
    done
  done
  [[ -z "$(setting no-index)" ]] || options+=(--no-index)
  cert="$(setting cert)"
  # Hard links from a cache on the same disk: nothing is written twice.
  ${cert:+env SSL_CERT_FILE="$cert"} "$uv" pip install --python "$PYTHON" \
    --cache-dir "${UV_CACHE_DIR:-$ROOT/.cache/uv}" --index-strategy unsafe-best-match \
    "${options[@]}" "$@"
}

for uv in "$(dirname "$PYTHON")/uv" "$ROOT/.venv/bin/uv" "$(command -v uv || true)"; do
  if [[ -x "$uv" ]] && install_by "$uv" "$@" >/dev/null 2>&1; then
    exit
  fi
done
exec "$PYTHON" -m pip --disable-pip-version-check install "$@"
