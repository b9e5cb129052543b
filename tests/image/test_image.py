"""The image as its users run it: by itself, with less rights, with too little, by several users.

Only by `make image`: it needs root on Debian, podman, buildah and debootstrap.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.image import stand_in
from tests.image.podman import ROOT, Container, always, call, running
from tests.readme import blocks, commands, words
from tests.test_deployment import image_health_check, without_gpu
from tests.test_package import build_wheel

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
    (found,) = re.findall(r"^With fewer rights: `(.*?)`", text, re.MULTILINE | re.DOTALL)
    return shlex.split(found.replace("\n", " "))


def stream(container: Container) -> str:
    body = {"model": "demo", "prompt": "Hi", "max_tokens": 8, "stream": True, "ignore_eos": True}
    answer = container.client.post("/v1/completions", json=body)
    assert answer.status_code == 200
    return answer.text


def without_gpu_by_compose() -> list[str]:
    """What docker-compose.cpu.yml adds, by the options of `run`."""
    service = without_gpu()["services"]["sidecar"]
    values = {name: re.findall(":-(.*)}", text) for name, text in service["environment"].items()}
    capabilities = [f"--cap-add={name}" for name in service["cap_add"]]
    return [*capabilities, *(f"--env={name}={value}" for name, (value,) in values.items())]


@pytest.mark.parametrize("rights", ["root", "less", "compose"])
def test_it_serves_and_ends_with_0(image: str, volume: str, rights: str) -> None:
    options = {"less": less_rights, "compose": without_gpu_by_compose}.get(rights, list)()
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


# vLLM's own image ---------------------------------------------------------------------------------

ENGINE = "/opt/engine"
PIP = f'#!/bin/sh\nPYTHONPATH={ENGINE} exec python3 -m pip "$@"\n'


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """The address of a package index that has the wheel of this tree."""
    folder = tmp_path / "simple/vllm-sidecar"
    folder.mkdir(parents=True)
    wheel = build_wheel(tmp_path)
    wheel.rename(folder / wheel.name)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/simple"
        server.shutdown()


def in_the_stock_image(index: str, folder: Path) -> list[str]:
    """What vLLM's image has and its stand-in lacks: vLLM that leaves room for packages, and pip."""
    (folder / "pip").write_text(PIP)
    (folder / "pip").chmod(0o755)
    source = stand_in.MOUNT.removeprefix("--volume=").partition(":")[0]
    return [
        f"--volume={source}:{ENGINE}:ro",
        f"--volume={folder / 'pip'}:/usr/local/bin/pip:ro",
        f"--env=PYTHONPATH={ENGINE}",
        f"--env=PIP_INDEX_URL={index}",
        "--env=PIP_BREAK_SYSTEM_PACKAGES=1",
    ]


def documented() -> tuple[list[str], list[str]]:
    """README's first command: options and image, and what the image is told to run."""
    (command,) = commands(blocks("README.md", "console")[0])
    typed = words(command)
    entry = typed.index("--entrypoint")
    return typed[entry : entry + 2], typed[entry + 3 :]


def test_the_stock_image_serves_once_it_has_taken_the_package_in(
    index: str, tmp_path: Path
) -> None:
    options, command = documented()
    more = (*in_the_stock_image(index, tmp_path), MEMORY, *options)
    with running(stand_in.base(), *more, command=command, MODEL_NAME="demo") as container:
        container.wait_for("ready")
        assert stream(container).endswith("data: [DONE]\n\n")
        assert container.client.get("/dashboard").status_code == 200
        assert container.stop() == 0
        assert "0 were cut" in container.logs()


def test_the_wheels_address_does_as_well(index: str, tmp_path: Path) -> None:
    options, (_, command) = documented()
    (wheel,) = tmp_path.glob("simple/*/*.whl")
    address = f"{index}/vllm-sidecar/{wheel.name}"
    command = re.sub(r"vllm-sidecar==\S+", address, command) + " check demo"
    more = (*always(), *in_the_stock_image(index, tmp_path), *options)
    printed = call("podman", "run", "--rm", *more, stand_in.base(), "-c", command)
    assert re.search(r"^engine       ok      vLLM", printed, re.MULTILINE), printed
