"""deploy/k8s/fleet without a cluster: its router watches pods come and go."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack, closing
from pathlib import Path

import httpx
import yaml

from tests.engine.service import FORKED, Service, wait_until
from tests.fake_engine import FakeEngine
from tests.fleet.cluster import NAMESPACE, Cluster
from tests.fleet.load import End, Load, ends, under_load
from tests.fleet.router import ROOT, Router, shared
from tests.measure import measured
from tests.patience import PATIENCE
from tests.ports import free_ports

CLIENTS = 8


class InPod(Service):
    """A sidecar at an address of its own, on the port that all of them have."""

    def __init__(self, folder: Path, address: str, port: int, engine: FakeEngine) -> None:
        self.address = address
        place = {"HOST": address, "PORT": str(port), "UPSTREAM_URL": engine.url}
        super().__init__(folder, FORKED, DRAIN_DELAY_SECONDS="5", **place, **measured())
        self.port = port
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE, trust_env=False)

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    def listens(self) -> bool:
        with closing(socket.socket()) as probe:
            return probe.connect_ex((self.address, self.port)) == 0


def router_options(port: int) -> tuple[list[str], dict[str, str]]:
    """The arguments of deploy/k8s/fleet for this place, and the labels that they select."""
    documents = yaml.safe_load_all((ROOT / "deploy/k8s/fleet/router.yaml").read_text())
    (deployment,) = (each for each in documents if each["kind"] == "Deployment")
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    selector = container["args"][-1]
    options = [
        each
        for each in shared(container["args"])
        if not each.startswith(("--service-discovery-", "--selector"))
    ]
    options.append(f"--service-discovery-namespace={NAMESPACE}")
    options.append(f"--service-discovery-port={port}")
    key, _, value = selector.partition("=")
    return [*options, "--selector", selector], {key: value}


def test_pods_that_are_ready_are_asked_and_those_that_are_deleted_lose_nothing(
    tmp_path: Path,
) -> None:
    (port,) = free_ports(1)
    options, labels = router_options(port)
    with ExitStack() as stack:
        cluster = stack.enter_context(Cluster(labels))
        pods = []
        for name, address in (("one", "127.0.0.1"), ("other", "127.0.0.2")):
            (tmp_path / name).mkdir()
            engine = stack.enter_context(FakeEngine("--served-model-name", "tiny"))
            pod = InPod(tmp_path / name, address, port, engine)
            pods.append(stack.enter_context(pod))
        one, other = pods
        for pod in pods:
            pod.wait_for("ready", PATIENCE)
        cluster.put("one", one.address)
        cluster.put("other", other.address, ready=False)
        environ = {"KUBECONFIG": cluster.kubeconfig(tmp_path)}
        router = stack.enter_context(Router(tmp_path, [], options, environ))
        router.wait_for({one.url: True})
        cluster.put("other", other.address)
        router.wait_for({one.url: True, other.url: True})

        load = Load(router.url)
        with under_load(load, CLIENTS):
            wait_until(lambda: len(load.asked) > 4 * CLIENTS, PATIENCE, "a load")
            # As Kubernetes does it: the mark and the signal at once.
            cluster.put("one", one.address, deleted=True)
            one.terminate()
            router.wait_for({other.url: True})
            gone = time.monotonic()
            assert one.exit_code(PATIENCE) == 0
            wait_until(lambda: len(load.since(gone)) > 4 * CLIENTS, PATIENCE, "the others")
        assert ends(load.asked).keys() == {str(End.WHOLE)}, ends(load.asked)
        late = {each.request_id for each in load.since(gone)}
        assert not late & {line["request_id"] for line in one.lines("proxy.access")}
        other.terminate()  # the second signal, at the end of the block, cuts the drain short
