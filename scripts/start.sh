#!/usr/bin/env bash
# Entry point of the container and of `make run`: names the GPU situation in one line on
# stderr, then becomes `python3 -m proxy`. Arguments and environment go through as they are.
#
# The Python is $PYTHON if set, else the .venv of the project if there is one (its commands
# are then first on PATH), else python3.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
NVIDIA_SMI_SECONDS=20 # a wedged driver makes nvidia-smi hang for ever

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

describe_gpus() {
  local answer visible code=0
  if ! command -v nvidia-smi >/dev/null; then
    say "GPU: none (no nvidia-smi), vLLM runs on the CPU; in Docker, GPUs need --gpus all"
    return
  fi
  answer="$(timeout "$NVIDIA_SMI_SECONDS" nvidia-smi \
    --query-gpu=name,memory.total,driver_version --format=csv,noheader,nounits 2>&1)" || code=$?
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

describe_gpus
if [[ -z "${PYTHON:-}" && -x "$ROOT/.venv/bin/python3" ]]; then
  PATH="$ROOT/.venv/bin:$PATH"
fi
PYTHON="${PYTHON:-python3}"
if ! command -v "$PYTHON" >/dev/null; then
  say "error: no $PYTHON; run 'make run' once, or set PYTHON to a Python that has vLLM"
  exit 127
fi
# Volumes are shared by group 0 (`--user 2000:0`): what root has written others may go on with.
if [[ "$(id -g)" == 0 ]]; then
  umask g=rwx
fi
cd "$ROOT"
exec "$PYTHON" -m proxy "$@"
