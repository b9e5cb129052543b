"""The image as its users run it: by itself, with less rights, with too little, by several users.

Only by `make image`: it needs root on Debian, podman, buildah and debootstrap.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator

import pytest

from tests.image import stand_in
from tests.image.podman import ROOT, Container, always, call, running
from tests.test_deployment import image_health_check

pytestmark = [
    pytest.mark.alone,
    pytest.mark.skipif("IMAGE_TESTS" not in os.environ, reason="the image: make image"),
]
MEMORY = "--shm-size=1g"


@pytest.fixture(scope="module")
def image() -> str:
    return stand_in.build()


@pytest.fixture
def volume() -> Iterator[str]:
    """The option that mounts a new volume where the image keeps models."""
    name = "vllm-sidecar-test"
    call("podman", "volume", "create", name)
    yield f"--volume={name}:/workspace"
    call("podman", "volume", "rm", "--force", name)


def less_rights() -> list[str]:
    """The options of docs/deploying.md."""
    text = (ROOT / "docs/deploying.md").read_text()
    (found,) = re.findall(r"^Less rights: `(.*?)`", text, re.MULTILINE | re.DOTALL)
    return shlex.split(found.replace("\n", " "))


def stream(container: Container) -> str:
    body = {"model": "demo", "prompt": "Hi", "max_tokens": 8, "stream": True, "ignore_eos": True}
    answer = container.client.post("/v1/completions", json=body)
    assert answer.status_code == 200
    return answer.text


@pytest.mark.parametrize("rights", ["root", "less"])
def test_it_serves_and_ends_with_0(image: str, volume: str, rights: str) -> None:
    options = less_rights() if rights == "less" else []
    with running(image, stand_in.MOUNT, MEMORY, volume, *options) as container:
        container.wait_for("ready")
        answer = stream(container)
        assert '"finish_reason":"length"' in answer
        assert answer.endswith("data: [DONE]\n\n")
        assert container.execute(image_health_check()) == 0
        assert container.stop() == 0
        assert "0 were cut" in container.logs()


def test_a_volume_that_root_has_written_to_serves_another_user_of_its_group(
    image: str, volume: str
) -> None:
    for options in ([], less_rights()):
        with running(image, stand_in.MOUNT, MEMORY, volume, *options) as container:
            container.wait_for("ready")
            assert container.execute(["test", "-w", "/workspace/sidecar/starts.json"]) == 0
            assert "Permission denied" not in container.logs()
            container.stop()


def test_the_shared_memory_that_docker_gives_unasked_is_too_little_and_it_says_so(
    image: str, volume: str
) -> None:
    with running(image, stand_in.MOUNT, "--shm-size=64m", volume) as container:
        container.wait_for("failed")
        health = container.health()
        assert "Shared memory (/dev/shm) is too small" in health["reason"]
        assert "--shm-size" in health["remedy"]


def test_it_takes_commands(image: str) -> None:
    options = ("--rm", *always(), stand_in.MOUNT)
    assert "python3 -m proxy check" in call("podman", "run", *options, image, "--help")
