#!/usr/bin/env bash
# Runs a command as user 2000:0 where nothing can be written but the folders that are named, as a
# pod with readOnlyRootFilesystem would:   unshare -m read_only_root.sh FOLDER ... -- COMMAND ...
# To be run by root, in a mount namespace of its own: what is mounted here is gone with it.
set -euo pipefail

PROJECT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
PYTHON="$(readlink -f "$PROJECT/.venv/bin/python3")"

writable=()
while [[ $1 != -- ]]; do
  writable+=("$1")
  shift
done
shift

# The machine's own files, with room for mount points that it lacks.
mount --make-rprivate /
layers=/mnt
mount -t tmpfs tmpfs "$layers"
mkdir "$layers"/{upper,work,root}
root="$layers/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$layers/upper,workdir=$layers/work" "$root"
mkdir -p "${writable[@]/#/$root}" "$root$PROJECT"
# A Python in root's home is to be found by others.
for ((folder = 1; ; folder++)); do
  PYTHON="${PYTHON%/*}"
  [[ -n $PYTHON ]] || break
  chmod a+x "$root$PYTHON"
done
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --bind /sys "$root/sys"
mount -o remount,bind,ro "$root"
for folder in "${writable[@]}"; do
  # Shared memory is a file system of its own already.
  [[ $folder == /dev/shm ]] || mount -t tmpfs -o mode=2777,gid=2000 tmpfs "$root$folder"
done
mkdir -p "$root$PROJECT"
mount --bind "$PROJECT" "$root$PROJECT"
mount -o remount,bind,ro "$root$PROJECT"
exec chroot --userspec=2000:0 --groups=2000 "$root" "$@"
