#!/usr/bin/env bash
# Installs the proxies that `make bench` compares with, and py-spy for `--profile`: Debian
# packages, npm packages, and one virtual environment each for the others. A second run installs nothing.
# What fails is said and left out: the benchmark reports it as absent.
#
#   bench/install-peers.sh [haproxy|nginx|vllm-router|sglang-router|litellm|py-spy ...]
#
# Tests take some of them too, and clients, postgresql and prisma, which are no proxies: `make peers`.
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
    timeout "$STEP_SECONDS" scripts/pip-install.sh "$place/bin/python" "$@" >>"$CACHE/$name.log" 2>&1; then
    echo "$*" >"$place/requirements"
    say "$name: installed"
  else
    say "$name: failed, see $CACHE/$name.log"
  fi
}

# node NAME PACKAGE...: the same for npm packages. Their scripts are not run.
node() {
  local name=$1
  shift
  local place=$CACHE/$name
  if [[ $(cat "$place/requirements" 2>/dev/null) == "$*" ]]; then
    say "$name: present"
    return
  fi
  if ! command -v npm >/dev/null; then
    say "$name: needs Node.js with npm"
    return
  fi
  say "$name: npm install $*"
  mkdir -p "$place"
  echo '{"private": true}' >"$place/package.json"
  if timeout "$STEP_SECONDS" npm install --prefix "$place" --ignore-scripts --no-audit --no-fund \
    "$@" >"$CACHE/$name.log" 2>&1; then
    echo "$*" >"$place/requirements"
    say "$name: installed"
  else
    say "$name: failed, see $CACHE/$name.log"
  fi
}

# What LiteLLM needs to reach a database, but for the database: Prisma's client for Python is
# generated into LiteLLM's environment by Prisma's CLI. The query engine is the one in @prisma/client,
# of the same commit as the executable that this version of the client would fetch from Prisma's
# own server. Without the scripts of the packages: they would do that too.
PRISMA_VERSION=5.17.0
PRISMA_COMMIT=5.17.0-31.393aa359c9ad4a4bb28630fb5613f9c281cde053
prisma() {
  local place=$CACHE/prisma environment=$CACHE/litellm log=$CACHE/prisma.log of
  local packages=("prisma@$PRISMA_VERSION" "@prisma/client@$PRISMA_VERSION"
    "@prisma/adapter-pg@$PRISMA_VERSION" "@prisma/driver-adapter-utils@$PRISMA_VERSION"
    "@prisma/engines-version@$PRISMA_COMMIT" "@prisma/prisma-schema-wasm@$PRISMA_COMMIT"
    pg@8.11.5 graphql@16.9.0)
  of="${packages[*]} for $(cat "$environment/requirements" 2>/dev/null)"
  if [[ $(cat "$place/requirements" 2>/dev/null) == "$of" ]] &&
    compgen -G "$environment/lib/python3*/site-packages/prisma/client.py" >/dev/null; then
    say "prisma: present"
    return
  fi
  if ! command -v npm >/dev/null; then
    say "prisma: needs Node.js with npm"
    return
  fi
  say "prisma: npm install ${packages[*]}"
  mkdir -p "$place"
  rm -f "$place/requirements"
  echo '{"private": true}' >"$place/package.json"
  if timeout "$STEP_SECONDS" npm install --prefix "$place" --ignore-scripts --no-audit --no-fund \
    "${packages[@]}" >"$log" 2>&1 && generate "$place" "$environment" >>"$log" 2>&1; then
    echo "$of" >"$place/requirements"
    say "prisma: installed"
  else
    say "prisma: failed, see $log"
  fi
}

# generate PLACE ENVIRONMENT: the client in Python of LiteLLM's tables.
generate() {
  local schema
  schema=$(compgen -G "$2/lib/python3*/site-packages/litellm/proxy/schema.prisma") || return
  # The engines are only named here: what is missing would be fetched.
  PATH=$PWD/$2/bin:$PATH PRISMA_BINARY_CACHE_DIR=$PWD/$1 CHECKPOINT_DISABLE=1 \
    PRISMA_QUERY_ENGINE_BINARY=$PWD/tests/gateway/query-engine.mjs \
    PRISMA_SCHEMA_ENGINE_BINARY=/bin/false PRISMA_QUERY_ENGINE_LIBRARY=/bin/false \
    timeout "$STEP_SECONDS" prisma generate --schema "$schema" &&
    "$2/bin/python" -m compileall -q "${schema%/litellm/proxy/*}/prisma"  # seconds of each start
}

# The server's programs only: the one that the package starts is stopped. Not without being asked:
# who is not root, or has systemd, installs it by name.
postgresql() {
  local log=$CACHE/postgresql.log
  if compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || command -v initdb >/dev/null; then
    say "postgresql: present"
  elif [[ $(id -u) -ne 0 || -d /run/systemd/system ]] || ! command -v apt-get >/dev/null; then
    say "postgresql: missing; on Debian: apt-get install postgresql"
  elif { apt-get update -qq && DEBIAN_FRONTEND=noninteractive timeout "$STEP_SECONDS" \
    apt-get install -y -qq --no-install-recommends postgresql; } >"$log" 2>&1; then
    service postgresql stop >>"$log" 2>&1
    say "postgresql: installed"
  else
    say "postgresql: failed, see $log"
  fi
}

install() {
  case $1 in
  haproxy | nginx) debian "$1" ;;
  vllm-router) venv vllm-router vllm-router vllm-router==0.1.17 ;;
  sglang-router) venv sglang-router sglang-router sglang-router==0.3.2 ;;
  litellm) venv litellm litellm "litellm[proxy]==1.106.2" prisma==0.15.0 ;;
  prisma | postgresql) "$1" ;;
  langchain-openai) venv langchain-openai python langchain-openai==1.7.3 ;;
  pydantic-ai) venv pydantic-ai python "pydantic-ai-slim[openai]==1.107.10" openai==2.54.0 ;;
  node-clients)
    node node-clients openai@6.49.0 @langchain/openai@1.5.0 @langchain/core@1.4.0 \
      @anthropic-ai/sdk@1.14.0
    ;;
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
