"""docs/deploying.md: its table holds against the settings and against what is shipped."""

from __future__ import annotations

import json
import logging
import re
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from proxy.__main__ import main
from proxy.access.routes import Route
from proxy.commands import serve
from proxy.lifecycle import addresses
from proxy.settings import Settings, variables
from proxy.vllm.command import engine_command, warnings_about
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
        title = re.sub(r"\[(.*)\]\((.*)\)", r"\1", name)
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
    assert anchors - {"proxies-that-cut-quiet-connections"} <= set(
        re.findall(r"\]\(#(.*?)\)", TEXT)
    )


def test_files_that_are_named_are_there() -> None:
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


def test_docker_with_less_rights_can_load_what_it_compiles() -> None:
    """Docker's own default for such a mount is noexec, and a compiled kernel is then not mapped."""
    (less,) = re.findall(r"With fewer rights: `(.*?)`", TEXT, re.DOTALL)
    words = less.split()
    mounts = [after.split(":") for word, after in pairwise(words) if word == "--tmpfs"]
    assert [folder for folder, _ in mounts] == ["/tmp", "/home/vllm"]
    assert all("exec" in options.split(",") for _, options in mounts)
    pod = kubernetes.pod("one-container")["securityContext"]
    user = f"{pod['runAsUser']}:{pod['runAsGroup']}"
    assert {("--user", user), ("-e", "HOME=/home/vllm")} <= set(pairwise(words))


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


def test_what_sagemaker_runs_the_image_with_starts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "serve", lambda: 7)
    assert main(["serve"]) == main([]) == 7
    assert 'exec "$PYTHON" -m proxy "$@"' in (ROOT / "scripts/start.sh").read_text()


class Name(NamedTuple):
    """A row of the table of names."""

    place: str
    there: str
    here: str


def names() -> list[Name]:
    table = TEXT.split("| From | There | Here |\n| --- | --- | --- |\n")[1].split("\n\n")[0]
    return [Name(*line.strip("| ").split(" | ")) for line in table.splitlines()]


NAMES = pytest.mark.parametrize("name", names(), ids=lambda name: f"{name.place}, {name.there}")
SAMPLES = {"HF_TOKEN": "hf_0123", "CHAT_TEMPLATE": "/t.jinja", "MAX_MODEL_LEN": "512"}


@NAMES
def test_what_a_name_is_here_are_variables_with_good_values(name: Name) -> None:
    given = dict(pair.split("=", 1) for pair in re.findall(r"`([A-Z_]+=[^`]*)`", name.here))
    settings = Settings.load(given)
    assert warnings_about(settings) == ()
    named = settings.served_model_names
    engine_command(settings, model_path="/m", served_names=named, has_gpu=True)


@NAMES
def test_a_name_that_is_the_same_here_is_taken_as_it_is(name: Name) -> None:
    if (ours := re.match(r"Same as `(\w+)`", name.here)) is not None:
        value = SAMPLES.get(ours[1], "a/b")
        theirs = re.fullmatch(r"`(\w+)`", name.there)
        assert theirs is not None
        settings = Settings.load({theirs[1]: value})
        assert settings.model_dump() == Settings.load({ours[1]: value}).model_dump()
        assert settings.model_dump() != Settings.load({}).model_dump()
        assert warnings_about(settings) == ()


def test_a_name_that_is_the_same_here_is_one_that_the_settings_read() -> None:
    aliases = {alias for spellings in variables().values() for alias in spellings[1:]}
    assert {name.there.strip("`") for name in names() if "Same as" in name.here} - aliases == {
        "SM_VLLM_MAX_MODEL_LEN"
    }


async def test_the_address_that_vast_gives_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "proxy")
    given = {"PUBLIC_IPADDR": "65.130.162.74", "VAST_TCP_PORT_8000": "33526"}
    async with house(**given) as there:
        there.lifecycle.announce_settings()
    assert "API        http://65.130.162.74:33526/v1" in caplog.messages


@pytest.mark.parametrize(
    ("given", "urls"),
    [
        ({}, ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/metrics")),
        ({"HOST": "::"}, ("http://[::1]:8000/v1", "http://[::1]:8000/metrics")),
        ({"HOST": "10.0.0.7"}, ("http://10.0.0.7:8000/v1", "http://10.0.0.7:8000/metrics")),
        ({"METRICS_PORT": "9100"}, ("http://127.0.0.1:8000/v1", "http://127.0.0.1:9100/metrics")),
        (
            {"RUNPOD_POD_ID": "abc"},
            (
                "https://abc-8000.proxy.runpod.net/v1",
                "https://abc-8000.proxy.runpod.net/metrics",
            ),
        ),
        (
            {"RUNPOD_POD_ID": "abc", "RUNPOD_ENDPOINT_ID": "def"},
            ("http://127.0.0.1:8000/v1", "http://127.0.0.1:8000/metrics"),
        ),
    ],
)
def test_a_start_says_where_the_api_the_dashboard_and_the_metrics_are(
    given: dict[str, str], urls: tuple[str, str]
) -> None:
    found = dict(addresses(Settings.load(given)))
    assert list(found) == ["API", "dashboard", "metrics"]
    assert (found["API"], found["metrics"]) == urls
    assert found["dashboard"] == found["API"].replace("/v1", "/dashboard")
