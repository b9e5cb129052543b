#!/usr/bin/env bash
# Builds the image and pushes it, with provenance, a bill of materials and labels that say what is
# in it. Prints the digest to deploy by.
#
#   scripts/build-and-push.sh YOU/vllm-sidecar 0.1.0
#   scripts/build-and-push.sh YOU/vllm-sidecar 0.1.0-cu129 --vllm v0.32.0-cu129    (older drivers)
#   scripts/build-and-push.sh YOU/vllm-sidecar 0.1.0 --dry-run      (prints the commands, runs none)
#
# PLATFORM=linux/arm64 builds for another machine. Needs Docker with buildx, `docker login`, and a builder
# that makes attestations, which Docker's default one mostly does not: `docker buildx create --use`.
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

fail() {
  printf 'build-and-push.sh: error: %s\n' "$*" >&2
  exit 2
}

words=()
vllm=""
dry_run=""
while (($#)); do
  case $1 in
    --help | -h)
      sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit
      ;;
    --dry-run) dry_run=yes ;;
    --vllm)
      vllm="${2:-}"
      [[ $vllm =~ ^v[0-9]+\.[0-9]+\.[0-9]+ ]] || fail "--vllm wants a version of the image, such as v0.32.0"
      shift
      ;;
    -*) fail "unknown option $1; there are --vllm VERSION, --dry-run and --help" ;;
    *) words+=("$1") ;;
  esac
  shift
done
((${#words[@]} == 2)) || fail "usage: build-and-push.sh NAME TAG [--vllm VERSION] [--dry-run]"
name="${words[0]}"
tag="${words[1]}"
[[ $name =~ ^[a-z0-9][a-z0-9._:/-]*$ ]] || fail "$name: not the name of an image, such as you/vllm-sidecar"
[[ $name != *:* || ${name##*:} == */* ]] || fail "$name: the tag is a word of its own"
[[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]] || fail "$tag: not a tag"
[[ $tag != latest ]] || fail "latest says nothing to whom it breaks: name a version"

cd "$ROOT"
revision="$(git rev-parse HEAD)"
# What is pushed must be what the label says.
if [[ -n "$(git status --porcelain)" ]]; then
  [[ -n $dry_run ]] || fail "there are changes that are not committed"
  revision+="-dirty"
fi
metadata="$(mktemp)"
trap 'rm -f "$metadata"' EXIT

run() {
  if [[ -n $dry_run ]]; then
    printf '%q ' "$@"
    printf '\n'
  else
    "$@"
  fi
}

run docker buildx build \
  --platform "${PLATFORM:-linux/amd64}" \
  --pull \
  ${vllm:+--build-arg "VLLM_VERSION=$vllm"} \
  --build-arg "SIDECAR_VERSION=$tag" \
  --build-arg "SIDECAR_REVISION=$revision" \
  --label "org.opencontainers.image.created=$(date -u +%Y-%m-%dT%H:%M:%SZ)" \
  --provenance=mode=max \
  --sbom=true \
  --metadata-file "$metadata" \
  --tag "$name:$tag" \
  --push \
  .

if [[ -z $dry_run ]]; then
  digest="$(sed -n 's/.*"containerimage.digest": *"\(sha256:[0-9a-f]*\)".*/\1/p' "$metadata")"
  [[ -n $digest ]] || fail "pushed, but docker named no digest"
  printf 'pushed %s:%s\n%s@%s\n' "$name" "$tag" "$name" "$digest"
fi
