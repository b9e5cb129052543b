"""What is shipped around the code holds together: image, Compose, Prometheus, documents."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from proxy import check_base
from proxy.models.preset_choice import load_settings, presets_of
from proxy.settings import Settings

ROOT = Path(__file__).resolve().parent.parent

Defaults = dict[str, str | None]
"""Variable -> its default as it would stand in an environment; None where it is unset."""


# Dockerfile -----------------------------------------------------------------------------------


def dockerfile_instructions() -> list[tuple[str, str]]:
    """Keyword and rest of each instruction."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    found = [line.partition(" ") for line in lines if line]
    return [(keyword, rest.strip()) for keyword, _, rest in found]


def dockerfile(keyword: str) -> list[str]:
    return [rest for found, rest in dockerfile_instructions() if found == keyword]


def exec_form(instruction: str) -> list[str]:
    words = json.loads(instruction[instruction.index("[") :])
    assert isinstance(words, list)
    return [str(word) for word in words]


def test_image_is_the_vllm_that_the_tests_run() -> None:
    image, default, again = dockerfile("ARG")[:3]
    assert image == "VLLM_IMAGE=vllm/vllm-openai"
    assert dockerfile("FROM") == ["${VLLM_IMAGE}:${VLLM_VERSION}"]
    assert again == "VLLM_VERSION", "the second one must inherit"
    pinned = (ROOT / "requirements-engine.txt").read_text().strip()
    assert default.removeprefix("VLLM_VERSION=v") == pinned.removeprefix("vllm==")


def test_image_adds_tini_and_no_python_package() -> None:
    runs = " ".join(dockerfile("RUN"))
    assert not re.search(r"\b(pip3?|uv|conda|poetry)\b", runs)
    (install,) = re.findall(r"apt-get install (.*?)&&", runs)
    assert [word for word in install.split() if not word.startswith("-")] == ["tini=0.19.*"]


def test_image_starts_the_sidecar_under_an_init_that_leaves_the_engine_to_drain() -> None:
    (entrypoint,) = dockerfile("ENTRYPOINT")
    init, *options, start = exec_form(entrypoint)
    assert (init, options, start) == ("tini", ["-s", "--"], "/app/scripts/start.sh")
    assert dockerfile("CMD") == ["[]"], "the base image's arguments must not come through"


def test_image_keeps_both_caches_on_the_volume() -> None:
    environment = dict(word.split("=", 1) for word in shlex.split(" ".join(dockerfile("ENV"))))
    assert environment["HF_HOME"].startswith("/workspace/")
    assert environment["VLLM_CACHE_ROOT"].startswith("/workspace/")
    assert not dockerfile("USER"), "root, or whom `docker run --user` names"


def test_image_is_built_by_builders_that_know_no_here_documents() -> None:
    """Buildah 1.28, which Debian 12 has."""
    assert "<<" not in (ROOT / "Dockerfile").read_text()


def test_the_check_of_the_base_covers_the_requirements_and_passes_here() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    needed = [re.split(r"[<>=;]", line)[0] for line in lines if line and line[0] != "#"]
    modules = check_base.MODULES.split()
    assert {need.replace("-", "_") for need in needed} <= set(modules)
    (check,) = [rest for rest in dockerfile("RUN") if "check_base.py" in rest]
    assert check.startswith("python3 check_base.py requirements.txt ")
    check_base.main(ROOT / "requirements.txt")


def test_the_check_of_the_base_tells_a_version_that_does_not_fit(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("# none\n\nhttpx<0.1\n")
    with pytest.raises(SystemExit, match=r"httpx<0.1 \(here: "):
        check_base.main(tmp_path / "requirements.txt")


def test_image_copies_only_what_exists_and_is_let_through() -> None:
    let_through = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    sources = {word for rest in dockerfile("COPY") for word in rest.split()[:-1]}
    assert {Path(source).parts[0] for source in sources} == let_through
    assert all((ROOT / source).exists() for source in sources)
    assert os.access(ROOT / "scripts/start.sh", os.X_OK)


def test_image_can_be_read_by_any_user_whatever_the_umask_of_who_built_it(tmp_path: Path) -> None:
    (command,) = [rest for rest in dockerfile("RUN") if "chmod" in rest]
    for folder in ("scripts", "proxy", "proxy/inner"):
        (tmp_path / folder).mkdir(mode=0o700)
    copied = [tmp_path / name for name in ("LICENSE", "scripts/start.sh", "proxy/inner/one.py")]
    for path in copied:
        path.touch(mode=0o600)
    subprocess.run(["bash", "-c", f"umask 077; {command}"], cwd=tmp_path, check=True)
    for path in tmp_path.rglob("*"):
        needed = 0o555 if path.is_dir() else 0o444
        assert path.stat().st_mode & needed == needed, path
    assert copied[1].stat().st_mode & 0o111 == 0o111


# Health checks ----------------------------------------------------------------------------------


def image_health_check() -> list[str]:
    (instruction,) = dockerfile("HEALTHCHECK")
    return exec_form(instruction)


def compose_health_check() -> list[str]:
    test = compose()["services"]["sidecar"]["healthcheck"]["test"]
    assert test[0] == "CMD"
    # The port is a constant inside the Compose container; the test needs another one.
    program = test[-1].replace("8000", "int(os.environ['PORT'])")
    return [*test[1:-1], f"import os; {program}"]


@pytest.fixture
def health_server() -> Iterator[tuple[HTTPServer, list[str], list[int]]]:
    """Answers with the first status of the list; notes the paths it was asked for."""
    asked: list[str] = []
    statuses = [200]

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(statuses[0])
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server, asked, statuses
        server.shutdown()


@pytest.mark.parametrize(
    ("check", "path"),
    [(image_health_check, "/health/live"), (compose_health_check, "/health/ready")],
)
def test_health_check_reports_what_the_sidecar_says(
    check: Callable[[], list[str]],
    path: str,
    health_server: tuple[HTTPServer, list[str], list[int]],
) -> None:
    server, asked, statuses = health_server
    program, *arguments = check()
    assert program == "python3"
    environment = {"PORT": str(server.server_port), "http_proxy": "http://127.0.0.1:1"}
    for status, code in ((200, 0), (204, 1), (503, 1)):
        statuses[0] = status
        done = subprocess.run([sys.executable, *arguments], env=environment, check=False)
        assert done.returncode == code
    assert asked == [path] * 3


@pytest.mark.parametrize("port", [{"PORT": "'%d'"}, {"SERVICE_PORT": '"%d"\n', "PORT": ""}, {}])
def test_the_images_health_check_finds_the_port_as_the_settings_do(port: dict[str, str]) -> None:
    asked = "print(c.port); sys.exit()"
    _, *options, code = image_health_check()
    environ = {name: text.replace("%d", "9000") for name, text in port.items()}
    command = [sys.executable, *options, re.sub(r"c\.request\(.*", asked, code)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert int(done.stdout) == Settings.load(environ).port == (9000 if port else 8000)


# Compose ------------------------------------------------------------------------------------------


class Loader(yaml.SafeLoader):
    """Knows Compose's own tags: what `!reset` resets is None."""


Loader.add_multi_constructor("!", lambda loader, suffix, node: None)


def compose(name: str = "docker-compose.yml") -> dict[str, Any]:
    document = yaml.load((ROOT / name).read_text(), Loader)
    assert isinstance(document, dict)
    return document


def without_gpu() -> dict[str, Any]:
    """The override for CPUs."""
    return compose("docker-compose.cpu.yml")


@pytest.mark.parametrize("name", ["sidecar", "model-1", "model-2"])
def test_compose_needs_no_gpu_with_its_override(name: str) -> None:
    """Not the fleet: it is a GPU each."""
    override, base = without_gpu()["services"][name], compose()["services"][name]
    assert "deploy" in base, "which reserves GPUs"
    assert override["deploy"] is None
    (argument,) = override["build"]["args"]
    assert f"ARG {argument}=" in (ROOT / "Dockerfile").read_text()
    assert override["image"] != base["image"], "each has its own"
    # Without it vLLM takes a share of the machine's memory, which is not free on a laptop.
    kept = override["environment"].keys() - base["environment"].keys()
    assert kept == {"VLLM_CPU_KVCACHE_SPACE"}
    assert Settings.load({}).model_name is None, "which is the demo model without a GPU"


def test_every_place_where_compose_resets_something_says_so_to_compose() -> None:
    """Written out in each service: older versions of Compose do not see it behind an alias."""
    services = without_gpu()["services"]
    resets = (ROOT / "docker-compose.cpu.yml").read_text().count("    deploy: !reset null\n")
    assert resets == sum("deploy" in service for service in services.values()) == 3


def seconds(duration: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([sm])", duration).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60}[unit]


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("docker-compose*.yml")))
def test_compose_file_is_valid(name: str) -> None:
    schema = files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    jsonschema.validate(compose(name), json.loads(schema.read_text()))


def test_compose_gives_the_drain_its_time() -> None:
    settings = Settings.load({})
    drain = settings.drain_seconds + settings.drain_delay_seconds
    grace = seconds(compose()["services"]["sidecar"]["stop_grace_period"])
    assert grace >= drain + 20, "vLLM needs some seconds to stop after the drain"


@pytest.mark.parametrize("name", ["router", "gateway"])
def test_who_stands_in_front_is_left_as_long_as_what_it_relays(name: str) -> None:
    """Compose ends it before the sidecars, so it would cut what they still let run."""
    services = compose()["services"]
    behind = [other for other in services[name]["depends_on"] if other.startswith("sidecar")]
    longest = max(seconds(services[other]["stop_grace_period"]) for other in behind)
    assert seconds(services[name]["stop_grace_period"]) >= longest


@pytest.mark.parametrize("name", ["sidecar-1", "sidecar-2"])
def test_sidecar_of_the_fleet_is_the_other_one_with_a_gpu_and_a_place_of_its_own(name: str) -> None:
    services = compose()["services"]
    service = services[name]
    assert service["profiles"] == ["fleet"]
    for shared in ("image", "build", "env_file", "healthcheck", "shm_size", "ulimits"):
        assert service[shared] == services["sidecar"][shared]
    assert "ports" not in service, "requests come by the router"
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    number = int(name.removeprefix("sidecar-"))
    assert device["device_ids"] == [str(number - 1)]
    settings = Settings.load(service["environment"])
    assert settings.hf_home == f"/workspace/{name}/huggingface"
    assert service["environment"]["HF_HUB_CACHE"] == "/workspace/huggingface/hub"
    assert service["environment"]["VLLM_CACHE_ROOT"] == f"/workspace/{name}/vllm", "not one for two"
    drain = settings.drain_delay_seconds + settings.drain_seconds
    assert seconds(service["stop_grace_period"]) >= drain + 20


def test_router_asks_the_sidecars_of_the_fleet() -> None:
    services = compose()["services"]
    router = services["router"]
    fleet = [name for name in services if name.startswith("sidecar-")]
    assert router["depends_on"] == fleet
    command = router["command"]
    urls = command[command.index("--worker-urls") + 1 :]
    assert urls == [f"http://{name}:{services[name]['environment']['PORT']}" for name in fleet]
    assert all(port.startswith("127.0.0.1:") for port in router["ports"]), "it has no keys"
    pinned = re.search(r"vllm-router==(\S+)", (ROOT / "deploy/fleet/Dockerfile").read_text())
    tested = re.search(r"vllm-router==(\S+)", (ROOT / "bench/install-peers.sh").read_text())
    assert pinned is not None
    assert tested is not None
    assert pinned[1] == tested[1]


def test_compose_services_are_pinned_named_safely_and_mount_what_exists() -> None:
    services = compose()["services"]
    assert "vllm" not in services, "as a Kubernetes service it would set VLLM_PORT"
    assert [name for name, service in services.items() if "profiles" not in service] == ["sidecar"]
    for name, service in services.items():
        assert re.search(r":(local|v?\d+\.\d+(\.\d+)?)$", service["image"]), name
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), volume


# Models -------------------------------------------------------------------------------------------


def deployed_environments() -> dict[str, dict[str, str]]:
    """Every environment that is shipped and names a model."""
    found = {
        f"deploy/runpod/{kind}.json": json.loads((ROOT / f"deploy/runpod/{kind}.json").read_text())[
            "env"
        ]
        for kind in ("pod", "serverless")
    }
    for preset in json.loads((ROOT / ".runpod/hub.json").read_text())["config"]["presets"]:
        found[f".runpod/hub.json: {preset['name']}"] = {
            name: str(value) for name, value in preset["defaults"].items()
        }
    tests = json.loads((ROOT / ".runpod/tests.json").read_text())["config"]["env"]
    found[".runpod/tests.json"] = {each["key"]: each["value"] for each in tests}
    for path in sorted((ROOT / "deploy").rglob("*.env")):
        pairs = re.findall(r"^(\w+)=(.*)$", path.read_text(), re.MULTILINE)
        found[str(path.relative_to(ROOT))] = dict(pairs)
    found[".env.example"] = dict(
        re.findall(r"^#(MODEL_NAME|MAX_MODEL_LEN)=(.*)$", (ROOT / ".env.example").read_text(), re.M)
    )
    return {name: env for name, env in found.items() if "MODEL_NAME" in env}


@pytest.mark.parametrize("name", deployed_environments())
def test_a_model_that_is_deployed_has_what_its_preset_sets(name: str) -> None:
    """Else a telephone's photo has more tokens than the context that the same file sets."""
    settings = load_settings(deployed_environments()[name])
    presets = [
        each for each in presets_of(settings).values() if each.repository == settings.model_name
    ]
    assert presets, "known by name, so that what it needs is known too"
    for preset in presets:
        assert preset.engine_variables.keys() <= settings.environ.keys()


# Prometheus and Grafana ---------------------------------------------------------------------------


def test_prometheus_scrapes_both_pages_of_the_sidecar() -> None:
    document = yaml.safe_load((ROOT / "monitoring/prometheus.yml").read_text())
    pages = {job["job_name"]: job["metrics_path"] for job in document["scrape_configs"]}
    assert pages == {"sidecar": "/metrics", "engine": "/metrics/engine"}
    port = compose()["services"]["sidecar"]["environment"]["PORT"]
    for job in document["scrape_configs"]:
        assert job["static_configs"] == [{"targets": [f"sidecar:{port}"]}]


def test_compose_mounts_the_rules_where_prometheus_looks_for_them() -> None:
    document = yaml.safe_load((ROOT / "monitoring/prometheus.yml").read_text())
    mounted = dict(
        volume.split(":")[:2] for volume in compose()["services"]["prometheus"]["volumes"]
    )
    assert document["rule_files"] == ["rules.yml", "alerts.yml"]
    for name in document["rule_files"]:
        assert mounted[f"./monitoring/{name}"] == f"/etc/prometheus/{name}"


def test_grafana_is_given_the_prometheus_and_the_folder_that_compose_mounts() -> None:
    folder = ROOT / "monitoring/grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((folder / "dashboards/sidecar.yml").read_text())["providers"]
    services = compose()["services"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services
    mounted = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted
    assert (
        f"./monitoring/grafana/dashboards:{provider['options']['path']}:ro"
        in (services["grafana"]["volumes"])
    )
    names = {path.name for path in (ROOT / "monitoring/grafana/dashboards").iterdir()}
    assert names == {"service.json", "engine.json", "models.json", "cost.json"}
