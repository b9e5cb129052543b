"""docs/deploying.md: its table holds against the settings and against what is shipped."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from proxy.edge.routes import Route
from proxy.engine.command import warnings_about
from proxy.settings import Settings
from tests import test_kubernetes as kubernetes
from tests.proxy.house import house
from tests.test_deployment import compose, seconds

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/deploying.md").read_text(encoding="utf-8")


class Place(NamedTuple):
    """A row of the table."""

    name: str
    port: int
    health: list[str]
    given: dict[str, str]
    kill_seconds: int | None

    @property
    def settings(self) -> Settings:
        return Settings.load(self.given)


def places() -> dict[str, Place]:
    table = TEXT.split("| --- | --- | --- | --- | --- |\n")[1].split("\n\n")[0]
    found = {}
    for line in table.splitlines():
        name, port, health, given, kill = (cell.strip() for cell in line.strip("|").split("|"))
        title = re.sub(r"\[(.*)\]\(#(.*)\)", r"\1", name)
        found[title] = Place(
            title,
            int(port),
            re.findall(r"`(/\S*)`", health),
            dict(pair.split("=", 1) for pair in re.findall(r"`(\w+=\S*)`", given)),
            int(kill.removesuffix(" s")) if kill != "not documented" else None,
        )
    return found


PLACES = pytest.mark.parametrize("place", places().values(), ids=lambda place: place.name)


@PLACES
def test_variables_of_a_place_are_known_and_give_its_port(place: Place) -> None:
    assert warnings_about(place.settings) == ()
    assert place.settings.port == place.port


@PLACES
async def test_health_checks_of_a_place_are_answered(place: Place) -> None:
    async with house(**place.given) as there:
        for path in place.health:
            assert (await there.get(path)).status_code in (200, 204, 503), path


@PLACES
def test_a_place_leaves_the_drain_its_time(place: Place) -> None:
    if place.kill_seconds is not None:
        drain = place.settings.drain_delay_seconds + place.settings.drain_seconds
        assert place.kill_seconds >= drain + kubernetes.STOP_SECONDS


def test_sections_of_the_table_are_there() -> None:
    titles = re.findall(r"^## (.*)$", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert set(re.findall(r"\]\(#(.*?)\)", TEXT)) == anchors


def test_links_and_files_are_there() -> None:
    for link in re.findall(r"\]\((\.\./[^)#]+)", TEXT):
        assert (ROOT / "docs" / link).exists(), link
    named = re.findall(r"`((?:deploy|scripts|\.runpod)[\w./-]*)`", TEXT)
    for path in (*named, *re.findall(r"scripts/\w+\.py", TEXT)):
        assert (ROOT / path).exists(), path


def test_the_table_says_what_the_files_say() -> None:
    table = places()
    health = (ROOT / "Dockerfile").read_text()
    assert all(f"'{path}'" in health for path in table["Docker"].health)
    service = compose()["services"]["sidecar"]
    assert table["Compose"].kill_seconds == seconds(service["stop_grace_period"])
    assert all(
        f"'{path}'" in service["healthcheck"]["test"][-1] for path in table["Compose"].health
    )
    pod, container = kubernetes.pod("one-container"), kubernetes.sidecar("one-container")
    place = table["Kubernetes"]
    assert place.kill_seconds == pod["terminationGracePeriodSeconds"]
    assert place.given.items() <= kubernetes.environment("one-container").items()
    probes = ("startupProbe", "livenessProbe", "readinessProbe")
    assert place.health == [container[probe]["httpGet"]["path"] for probe in probes]
    for name, kind in (("RunPod pod", "pod"), ("RunPod serverless", "serverless")):
        template = json.loads((ROOT / f"deploy/runpod/{kind}.json").read_text())
        assert table[name].given.items() <= template["env"].items()


async def test_sagemakers_route_is_relayed_where_it_is_asked_for() -> None:
    path = places()["SageMaker"].given["EXTRA_ROUTES"]
    async with house() as there:
        assert (await there.http.post(path, json={})).status_code == 404
    async with house(EXTRA_ROUTES=path) as there:
        answer = await there.http.post(path, json={})
        assert answer.status_code == 503, "the engine is not ready"
        assert there.metric(
            "sidecar_requests_total", route=Route.EXTRA, model="other", outcome="engine_unavailable"
        )


def test_sagemakers_argument_does_not_reach_the_sidecar(tmp_path: Path) -> None:
    snippet = TEXT.split("```dockerfile\n")[1].split("```")[0]
    given = dict(word.split("=", 1) for word in snippet.split("ENV ")[1].split("\n")[0].split())
    assert given.items() <= places()["SageMaker"].given.items()
    entrypoint = json.loads(snippet.split("ENTRYPOINT ")[1])
    assert entrypoint[:3] == ["tini", "-s", "--"]
    start = tmp_path / "start.sh"
    start.write_text('#!/usr/bin/env bash\necho "$# arguments"\n')
    start.chmod(0o755)
    command = [word.replace("/app/scripts/start.sh", str(start)) for word in entrypoint[3:]]
    assert subprocess.check_output([*command, "serve"], text=True) == "0 arguments\n"
