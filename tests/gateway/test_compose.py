"""deploy/gateway and docker-compose.yml give each other what they read; nothing is started."""

from __future__ import annotations

import re

import pytest

from proxy.models.preset_choice import load_settings
from tests.gateway.litellm import FOLDER, config
from tests.readme import ROOT
from tests.test_deployment import compose


@pytest.mark.parametrize(
    ("name", "file"), [("gateway", "litellm.yaml"), ("two-models", "two-models.yaml")]
)
def test_compose_gives_the_gateway_what_its_configuration_reads(name: str, file: str) -> None:
    services = compose()["services"]
    gateway, database = services[name], services["gateway-db"]
    assert gateway["profiles"] == [name]
    assert name in database["profiles"]
    text = (FOLDER / file).read_text()
    read = set(re.findall(r"os\.environ/(\w+)", text))
    environment = gateway["environment"] | gateway["environment"].get("<<", {})
    assert read <= set(environment)
    assert f"./deploy/gateway/{file}:/etc/litellm.yaml:ro" in gateway["volumes"]
    assert "--config=/etc/litellm.yaml" in gateway["command"]
    assert all(published.startswith("127.0.0.1:") for published in gateway["ports"])
    assert "ports" not in database
    urls = [value for value in environment.values() if value.startswith("http://")]
    for host, port in (re.findall(r"http://(.*):(\d+)/v1", url)[0] for url in urls):
        assert services[host]["environment"]["PORT"] == port


@pytest.mark.parametrize("number", [1, 2])
def test_each_of_two_models_is_served_under_its_name_in_its_share_of_the_gpu(number: int) -> None:
    services = compose()["services"]
    service = services[f"model-{number}"]
    assert service["env_file"][0] == {"path": ".env", "required": False}
    assert service["env_file"][1] == {"path": f"deploy/gateway/model-{number}.env"}
    settings = load_settings(environment_of(number) | service["environment"])
    entry = config("two-models.yaml")["model_list"][number - 1]
    assert settings.served_model_names == (entry["model_name"],)
    assert entry["litellm_params"]["model"] == f"openai/{entry['model_name']}"
    assert entry["litellm_params"]["api_base"] == f"os.environ/MODEL_{number}_URL"
    assert service["deploy"] == services["sidecar-1"]["deploy"], "GPU 0"
    assert (
        service["environment"]["HF_HUB_CACHE"]
        == services["sidecar-1"]["environment"]["HF_HUB_CACHE"]
    )
    assert "ports" not in service


def test_two_models_start_one_after_the_other_and_leave_something_of_the_gpu() -> None:
    waits = compose()["services"]["model-2"]["depends_on"]
    assert waits == {"model-1": {"condition": "service_healthy"}}
    shares = [float(environment_of(number)["GPU_MEMORY_UTIL"]) for number in (1, 2)]
    assert sum(shares) <= 0.9


def environment_of(number: int) -> dict[str, str]:
    lines = (FOLDER / f"model-{number}.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if not line.startswith("#"))


def test_example_names_the_variables_that_compose_takes() -> None:
    named = set(re.findall(r"^(\w+)=$", (FOLDER / "env.example").read_text(), re.MULTILINE))
    services = compose()["services"]
    environments = [
        services[name]["environment"] for name in ("gateway", "two-models", "gateway-db")
    ]
    values = [value for each in environments for value in each.values()]
    taken = {name for value in values for name in re.findall(r"\$\{(\w+):-", value)}
    assert named == taken - {"MODEL_NAME"}, "which the sidecar's .env has"
    local = services["gateway"]["environment"]
    assert local["GATEWAY_LITELLM_MODEL"] == f"openai/{local['GATEWAY_MODEL']}"


def test_resetting_the_database_removes_the_volume_that_it_is_on() -> None:
    (volume,) = compose()["services"]["gateway-db"]["volumes"]
    name = f"{compose()['name']}_{volume.split(':')[0]}"
    assert f"$ docker volume rm {name}\n" in (ROOT / "docs/gateway.md").read_text()


def test_image_is_of_the_version_that_is_tested() -> None:
    image = compose()["services"]["gateway"]["image"]
    pinned = re.search(r"litellm\[proxy\]==(\S+?)\"", (ROOT / "bench/install-peers.sh").read_text())
    assert pinned is not None
    assert image.endswith(f":{pinned[1]}")
