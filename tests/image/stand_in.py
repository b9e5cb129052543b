"""A stand-in for vLLM's image, and the image that the Dockerfile makes of it.

Debian with its Python; vLLM, for the CPU, is mounted from .venv. It has no CUDA, and is not what is
shipped. What can be seen with it: the Dockerfile, the entry point, users, folders, signals.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from tests.image.podman import CACHE, ROOT, call
from tests.test_deployment import dockerfile

IMAGE = "localhost/vllm-sidecar:stand-in"
_ROOTFS = CACHE / "rootfs"
_PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
MOUNT = f"--volume={sysconfig.get_path('platlib')}:/usr/local/lib/{_PYTHON}/dist-packages:ro"
# What wheels for the CPU link to, and the compiler that torch may ask for.
_PACKAGES = "python3,g++,libc6-dev,ca-certificates,libgomp1,libnuma1,procps"


def base() -> str:
    """The name of the stand-in for vLLM's image. The first time it takes two minutes."""
    name = dockerfile("FROM")[0]
    for argument, value in (each.split("=") for each in dockerfile("ARG") if "=" in each):
        name = name.replace(f"${{{argument}}}", value)
    base = f"docker.io/{name}"
    if not call("podman", "images", "--quiet", base):
        _make_rootfs()
        subprocess.run(["tar", "-C", _ROOTFS, "-cf", CACHE / "base.tar", "."], check=True)
        entry_point = '--change=ENTRYPOINT ["vllm", "serve"]'
        call("podman", "import", entry_point, str(CACHE / "base.tar"), base)
        (CACHE / "base.tar").unlink()
        shutil.rmtree(_ROOTFS)
    return base


def build() -> str:
    """The name of the image that the Dockerfile makes of it, in seconds."""
    base()
    alone = ("--isolation=chroot", "--network=host", "--pull-never", "--format=docker")
    call("buildah", "bud", *alone, MOUNT, f"--tag={IMAGE}", str(ROOT))
    return IMAGE


def _make_rootfs() -> None:
    shutil.rmtree(_ROOTFS, ignore_errors=True)
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    command = ["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", suite, str(_ROOTFS)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert (_ROOTFS / "usr/bin" / _PYTHON).exists(), f"Debian's Python is not {_PYTHON}, as .venv's"
    vllm = Path(sys.executable).with_name("vllm").read_text().split("\n", 1)[1]
    command_line = _ROOTFS / "usr/local/bin/vllm"
    command_line.write_text(f"#!/usr/bin/python3\n{vllm}")
    command_line.chmod(0o755)
