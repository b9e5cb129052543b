"""Podman and buildah with a storage of their own, and containers on the network of this machine."""

from __future__ import annotations

import resource
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.engine.service import wait_until
from tests.patience import PATIENCE
from tests.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
CACHE = (ROOT / ".cache").resolve() / "image"
_STORAGE = (f"--root={CACHE / 'storage'}", f"--runroot={CACHE / 'run'}")
# vLLM on two busy cores, and more than once where a test lets it fail.
START_SECONDS = 6 * PATIENCE


def call(program: str, *arguments: str, check: bool = True) -> str:
    """What it prints, both streams. Where `check` is set it fails if the program does."""
    runtime = ("--runtime=runc",) if program == "podman" and shutil.which("runc") else ()
    done = subprocess.run(
        [program, *_STORAGE, *runtime, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if check and done.returncode:
        raise AssertionError(f"{program} {arguments}: {done.stdout[-4000:]}")
    return done.stdout


class Container:
    """One that runs: `with running(image, *options) as container:`."""

    def __init__(self, name: str, client: httpx.Client) -> None:
        self._id = name
        self.client = client

    def logs(self) -> str:
        return call("podman", "logs", self._id, check=False)

    def health(self) -> dict[str, str]:
        """Empty where nobody listens."""
        try:
            answer: dict[str, str] = self.client.get("/health").json()
        except httpx.TransportError:
            return {}
        return answer

    def wait_for(self, phase: str) -> None:
        wait_until(lambda: self.health().get("phase") == phase, START_SECONDS, phase)

    def remove(self) -> None:
        call("podman", "rm", "--force", "--time=0", self._id)

    def execute(self, command: Sequence[str]) -> int:
        """Run a command inside; its exit code."""
        said = call("podman", "exec", self._id, "sh", "-c", '"$@" >&2; echo $?', "sh", *command)
        return int(said.split()[-1])

    def stop(self) -> int:
        """As `docker stop` does, with the time that is documented; the exit code."""
        call("podman", "stop", "--time=60", self._id)
        return int(call("podman", "inspect", "--format={{.State.ExitCode}}", self._id))


@contextmanager
def running(
    image: str, *options: str, command: Sequence[str] = (), **environ: str
) -> Iterator[Container]:
    """A container of an image; what it wrote outside of volumes is gone with it."""
    port, engine_port = free_ports(2)
    place = {"HOST": "127.0.0.1", "PORT": str(port), "UPSTREAM_PORT": str(engine_port)}
    variables = [f"--env={name}={value}" for name, value in (place | environ).items()]
    said = call("podman", "run", "--detach", *always(), *options, *variables, image, *command)
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, trust_env=False) as client:
        container = Container(said.split()[-1], client)
        try:
            yield container
        except BaseException as error:
            error.add_note(container.logs()[-8000:])
            raise
        finally:
            container.remove()


def always() -> list[str]:
    """Options of every container: this machine's network, no timer of systemd's, and no more than
    the limits of this process: podman would raise them, which not even every root may."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    _, most = resource.getrlimit(resource.RLIMIT_NPROC)
    limits = {"nofile": files, "nproc": 8192 if most < 0 else min(most, 8192)}
    return [
        "--network=host",
        "--no-healthcheck",
        *(f"--ulimit={name}={n}:{n}" for name, n in limits.items()),
    ]
