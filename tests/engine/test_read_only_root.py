"""Real vLLM as the Kubernetes manifest runs it: not root, and only its volumes to write to."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.engine.conftest import READY_SECONDS
from tests.engine.service import PROJECT, START, Service
from tests.test_kubernetes import environment, sidecar

CONTAINER = PROJECT / "tests" / "engine" / "read_only_root.sh"


def can_mount() -> bool:
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(not can_mount(), reason="needs the right to mount (root)"),
]


def in_pod(*command: str) -> list[str]:
    """`command` with the user and the volumes of deploy/k8s/one-container."""
    folders = [mount["mountPath"] for mount in sidecar("one-container")["volumeMounts"]]
    return ["unshare", "-m", str(CONTAINER), *folders, "--", *command]


def test_in_the_pod_nothing_else_can_be_written() -> None:
    places = "/ /usr /root /etc /workspace /tmp /home/vllm /dev/shm"
    script = f'id -u; for at in {places} {PROJECT}; do test -w "$at" && echo "$at"; done; true'
    done = subprocess.run(in_pod("bash", "-c", script), capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2000", "/workspace", "/tmp", "/home/vllm", "/dev/shm"]


def test_vllm_becomes_ready_and_stops_cleanly_in_the_pod(tmp_path: Path) -> None:
    with Service(
        tmp_path,
        in_pod(str(START)),
        HOME=environment("one-container")["HOME"],
        HF_HOME="/workspace/huggingface",
        VLLM_CACHE_ROOT="/workspace/vllm",
        TMPDIR="/tmp",
    ) as service:
        service.wait_for("ready", READY_SECONDS)
        service.process.terminate()
        assert service.exit_code() == 0
    assert "Read-only file system" not in service.text()
    assert "Permission denied" not in service.text()
