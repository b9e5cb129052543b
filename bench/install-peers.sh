#!/usr/bin/env bash
# Installs the proxies that `make bench` compares with, and py-spy for `--profile`: Debian
# packages, and one virtual environment each for the others. A second run installs nothing.
# What fails is said and left out: the benchmark reports it as absent.
#
#   bench/install-peers.sh [haproxy|nginx|vllm-router|sglang-router|litellm|py-spy|langchain-openai ...]
#
# Tests take some of them too, and langchain-openai, which is no proxy: `make peers`.
set -uo pipefail

cd "$(dirname "$0")/.." || exit
CACHE=.cache/bench
PYTHON=${PYTHON:-python3}
STEP_SECONDS=${STEP_SECONDS:-600}
# The benchmark starts its own processes; a package's service would take a core from it.
SUDO=
[[ $(id -u) -eq 0 ]] || SUDO=sudo

say() { echo "install-peers: $*"; }

debian() {
  local name=$1
  if [[ -x /usr/sbin/$name ]]; then
    say "$name: present"
    return
  fi
  say "$name: apt-get install"
  if timeout "$STEP_SECONDS" $SUDO apt-get install -y -qq --no-install-recommends "$name" \
    >"$CACHE/$name.log" 2>&1; then
    timeout 20 $SUDO systemctl disable --now "$name" >>"$CACHE/$name.log" 2>&1
    say "$name: installed"
  else
    say "$name: failed, see $CACHE/$name.log (is the package list fresh? apt-get update)"
  fi
}

# venv NAME COMMAND REQUIREMENT...: installed when the command is there and the stamp names
# these requirements.
venv() {
  local name=$1 command=$2
  shift 2
  local place=$CACHE/$name
  if [[ -x $place/bin/$command && $(cat "$place/requirements" 2>/dev/null) == "$*" ]]; then
    say "$name: present"
    return
  fi
  say "$name: pip install $*"
  if "$PYTHON" -m venv "$place" >"$CACHE/$name.log" 2>&1 &&
    timeout "$STEP_SECONDS" "$place/bin/pip" install --disable-pip-version-check --quiet "$@" \
      >>"$CACHE/$name.log" 2>&1; then
    echo "$*" >"$place/requirements"
    say "$name: installed"
  else
    say "$name: failed, see $CACHE/$name.log"
  fi
}

install() {
  case $1 in
  haproxy | nginx) debian "$1" ;;
  vllm-router) venv vllm-router vllm-router vllm-router==0.1.17 ;;
  sglang-router) venv sglang-router sglang-router sglang-router==0.3.2 ;;
  litellm) venv litellm litellm "litellm[proxy]==1.106.2" ;;
  langchain-openai) venv langchain-openai python langchain-openai==1.7.3 ;;
  py-spy) venv py-spy py-spy py-spy==0.4.2 ;;
  *) say "$1: no such peer" ;;
  esac
}

mkdir -p "$CACHE"
for peer in "${@:-}"; do
  [[ -n $peer ]] && install "$peer"
done
if [[ $# -eq 0 ]]; then
  for peer in haproxy nginx vllm-router sglang-router litellm py-spy; do
    install "$peer"
  done
fi
