#!/usr/bin/env bash
# Entry point of the container and of `make run`: has the GPU situation named in one line on
# stderr, and becomes `python3 -m proxy`. Arguments and environment go through as they are.
#
# The Python is $PYTHON if set, else the .venv of the project if there is one (its commands
# are then first on PATH), else python3.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
NVIDIA_SMI_SECONDS=20

say() { printf 'start.sh: %s\n' "$*" >&2; }

# "2 x NVIDIA H200 141 GiB, driver 570.86.15" from lines "NVIDIA H200, 143771, 570.86.15".
summarise_gpus() {
  awk -F ', *' '
    { key = sprintf("%s %.0f GiB", $1, $2 / 1024); if (!count[key]++) order[++kinds] = key }
    { driver = $3 }
    END {
      for (i = 1; i <= kinds; i++) printf "%s%d x %s", (i > 1 ? ", " : ""), count[order[i]], order[i]
      printf ", driver %s\n", driver
    }'
}

# What nvidia-smi says, and its exit code in a line of its own.
ask_nvidia_smi() {
  local answer code=0
  answer="$(timeout -k 1 "$NVIDIA_SMI_SECONDS" nvidia-smi \
    --query-gpu=name,memory.total,driver_version --format=csv,noheader,nounits 2>&1)" || code=$?
  printf '%s\n%d\0' "$answer" "$code"
}

describe_gpus() {
  local answer visible code=0
  if [[ -n "${UPSTREAM_URL:-}" ]]; then
    say "GPU: not looked at, the engine is the one at UPSTREAM_URL"
    return
  fi
  if ! command -v nvidia-smi >/dev/null; then
    say "GPU: none (no nvidia-smi), vLLM runs on the CPU; in Docker, GPUs need --gpus all"
    return
  fi
  # A wedged driver may hold nvidia-smi so that no signal ends it: `read` waits no longer all the same.
  if IFS= read -r -d '' -t "$NVIDIA_SMI_SECONDS" answer < <(ask_nvidia_smi); then
    code="${answer##*$'\n'}"
    answer="${answer%$'\n'*}"
  else
    code=124
  fi
  if ((code == 124)); then
    answer="no answer in $NVIDIA_SMI_SECONDS s"
  fi
  if ((code == 0)) && [[ "$answer" == *,* ]]; then
    visible="${CUDA_VISIBLE_DEVICES:+, CUDA_VISIBLE_DEVICES=$CUDA_VISIBLE_DEVICES}"
    say "GPU: $(summarise_gpus <<<"$answer")$visible"
  else
    say "GPU: nvidia-smi fails (${answer%%$'\n'*}): restart the container with --gpus all," \
      "and if 'nvidia-smi' fails on the host too, reinstall its driver or reboot it"
  fi
}

# Beside the sidecar, which listens from the first second: with many GPUs nvidia-smi takes seconds. In a
# subshell, so that whoever reaps orphans here gets it, and not the sidecar.
(describe_gpus &)
if [[ -z "${PYTHON:-}" && -x "$ROOT/.venv/bin/python3" ]]; then
  PATH="$ROOT/.venv/bin:$PATH"
fi
PYTHON="${PYTHON:-python3}"
if ! command -v "$PYTHON" >/dev/null; then
  say "error: no $PYTHON; run 'make run' once, or set PYTHON to a Python that has vLLM"
  exit 127
fi
# Volumes are shared by group 0 (`--user 2000:0`): what root has written others may go on with.
if ((GROUPS[0] == 0)); then
  umask g=rwx
fi
cd "$ROOT"
exec "$PYTHON" -m proxy "$@"
