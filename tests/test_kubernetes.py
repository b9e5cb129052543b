"""The manifests below deploy/k8s: valid, and true to what the sidecar does."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from proxy.models.fetch import data_directory
from proxy.models.preset_choice import load_settings
from proxy.settings import OnEngineFailure, Settings
from proxy.vllm.command import (
    ENGINE_KEEP_ALIVE_SECONDS,
    ENGINE_READY_SECONDS,
    engine_command,
    warnings_about,
)
from proxy.vllm.flags import flag_name, known_flags
from scripts import prometheus_rule as script
from tests.fleet.router import compose_options, shared
from tests.proxy.house import house
from tests.readme import blocks, commands

ROOT = Path(__file__).resolve().parent.parent
K8S = ROOT / "deploy" / "k8s"
KUSTOMIZATION = "kustomization.yaml"
FILES = sorted(path for path in K8S.rglob("*.yaml") if path.name != KUSTOMIZATION)
FOLDERS = sorted(path.parent for path in K8S.rglob(KUSTOMIZATION))
OLDEST = "1.29"  # the first with init containers that stay
VARIANTS = pytest.mark.parametrize("variant", ["one-container", "beside-vllm"])
# After the drain: vLLM has 5 s to end by itself, what is left of its tree as many (engine.guard).
STOP_SECONDS = 20

RULE_FILES = ("rules", "alerts")

Manifest = dict[str, Any]


def manifest(path: str) -> Manifest:
    document = yaml.safe_load((K8S / path).read_text())
    assert isinstance(document, dict)
    return document


def pod(variant: str) -> Manifest:
    spec: Manifest = manifest(f"{variant}/deployment.yaml")["spec"]["template"]["spec"]
    return spec


def containers(variant: str) -> list[Manifest]:
    return [*pod(variant).get("initContainers", ()), *pod(variant)["containers"]]


def sidecar(variant: str) -> Manifest:
    (container,) = pod(variant)["containers"]
    assert container["name"] == "sidecar"
    return dict(container)


def environment(variant: str) -> dict[str, str]:
    """What `settings.env` and the manifest put into the sidecar's environment."""
    lines = (K8S / variant / "settings.env").read_text().splitlines()
    given = dict(line.split("=", 1) for line in lines if line and line[0] != "#")
    return given | {each["name"]: each["value"] for each in sidecar(variant)["env"]}


def settings(variant: str) -> Settings:
    return load_settings(environment(variant))


def name_of(path: Path) -> str:
    return path.relative_to(K8S).as_posix()


# Valid ------------------------------------------------------------------------------------------


def validate(manifests: str) -> None:
    """Hold each document to the JSON schema of its kind, in which nothing may be that it lacks.

    Raises:
        ValidationError: one is not what Kubernetes, or the Prometheus Operator, takes.
    """
    for document in yaml.safe_load_all(manifests):
        of_the_operator = K8S / f"schemas/{document['kind'].lower()}-v1.json"
        if of_the_operator.exists():
            jsonschema.validate(document, json.loads(of_the_operator.read_text()))
            continue
        for version in (OLDEST, kubernetes_validate.latest_version()):
            kubernetes_validate.validate(document, version, strict=True)


def build(folder: Path) -> str:
    """What kubectl makes of a kustomization."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl here")
    return subprocess.check_output([kubectl, "kustomize", str(folder)], text=True)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_manifests_are_what_kubernetes_takes(path: Path) -> None:
    validate(path.read_text())


@pytest.mark.parametrize("folder", FOLDERS, ids=name_of)
def test_what_kubectl_builds_is_what_kubernetes_takes(folder: Path) -> None:
    validate(build(folder))


def test_kustomizations_name_all_files_and_nothing_else() -> None:
    named = set()
    for folder in FOLDERS:
        content = yaml.safe_load((folder / KUSTOMIZATION).read_text())
        settings = [name for each in content.get("configMapGenerator", ()) for name in each["envs"]]
        named |= {(folder / name).resolve() for name in [*content["resources"], *settings]}
    assert named - {*FOLDERS} == {*FILES, *K8S.rglob("*.env")}


# True to the sidecar ----------------------------------------------------------------------------


def test_the_guides_command_names_the_image_with_kubectl_alone(tmp_path: Path) -> None:
    guide = blocks("docs/deploying.md", "console")
    (edit,) = (each for block in guide for each in commands(block) if each.startswith("sed"))
    file = tmp_path / "kustomization.yaml"
    file.write_text((K8S / "one-container/kustomization.yaml").read_text())
    subprocess.run(["bash", "-c", edit], cwd=tmp_path, check=True)
    (image,) = yaml.safe_load(file.read_text())["images"]
    assert image == {"name": "vllm-sidecar", "newName": "YOU/vllm-sidecar", "newTag": "0.1"}


@VARIANTS
def test_settings_are_known_and_good(variant: str) -> None:
    assert warnings_about(settings(variant)) == ()


@VARIANTS
async def test_probes_ask_what_the_sidecar_answers(variant: str) -> None:
    container = sidecar(variant)
    asked = {
        kind: container[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")
    }
    assert {each["port"] for each in asked.values()} == {"http"}
    assert asked["liveness"]["path"] == "/health/live"
    assert asked["readiness"]["path"] == "/health/ready"
    # With an engine of its own the container has started when that has.
    mine = settings(variant).upstream_url is None
    assert asked["startup"]["path"] == ("/health/startup" if mine else "/health/live")
    async with house() as there:
        for probe in asked.values():
            assert (await there.get(probe["path"])).status_code in (200, 503)


@VARIANTS
def test_pod_is_given_the_time_of_its_drain(variant: str) -> None:
    mine = settings(variant)
    needed = mine.drain_delay_seconds + mine.drain_seconds + STOP_SECONDS
    assert pod(variant)["terminationGracePeriodSeconds"] >= needed
    assert mine.drain_delay_seconds > 0, "endpoints are taken out some time after SIGTERM"


@VARIANTS
def test_rollout_waits_as_long_as_a_start_may_take(variant: str) -> None:
    probe = sidecar(variant)["startupProbe"]
    longest = probe["periodSeconds"] * probe["failureThreshold"]
    assert manifest(f"{variant}/deployment.yaml")["spec"]["progressDeadlineSeconds"] > longest


@VARIANTS
def test_ports_are_those_of_the_settings_and_everybody_names_them(variant: str) -> None:
    ports = {port["name"]: port["containerPort"] for port in sidecar(variant)["ports"]}
    mine = settings(variant)
    assert ports == {"http": mine.port, "metrics": mine.port_of_metrics}
    service = manifest("common/service.yaml")["spec"]["ports"]
    assert [(port["port"], port["targetPort"]) for port in service] == [(mine.port, "http")]
    policy = manifest("common/network-policy.yaml")["spec"]["ingress"]
    assert [port["port"] for rule in policy for port in rule["ports"]] == ["http", "metrics"]


@VARIANTS
def test_everybody_selects_the_pods_of_the_deployment(variant: str) -> None:
    deployment = manifest(f"{variant}/deployment.yaml")["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert manifest("common/service.yaml")["spec"]["selector"] == labels
    policy = manifest("common/network-policy.yaml")["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    monitor = manifest("monitoring/pod-monitor.yaml")["spec"]
    assert monitor["selector"]["matchLabels"] == labels


def test_pod_monitor_has_the_jobs_of_the_compose_file() -> None:
    endpoints = manifest("monitoring/pod-monitor.yaml")["spec"]["podMetricsEndpoints"]
    jobs = {}
    for endpoint in endpoints:
        (job,) = endpoint["relabelings"]
        assert (endpoint["port"], job["targetLabel"]) == ("metrics", "job")
        jobs[job["replacement"]] = endpoint["path"]
    prometheus = yaml.safe_load((ROOT / "monitoring/prometheus.yml").read_text())
    assert jobs == {job["job_name"]: job["metrics_path"] for job in prometheus["scrape_configs"]}


def test_prometheus_rule_has_the_rules_and_alerts_of_the_compose_file() -> None:
    groups = manifest("monitoring/rules.yaml")["spec"]["groups"]
    files = [yaml.safe_load((ROOT / f"monitoring/{name}.yml").read_text()) for name in RULE_FILES]
    assert groups == [group for each in files for group in each["groups"]]
    names = [group["name"] for group in groups]
    assert len(set(names)) == len(names), "the operator refuses two of one name"


def test_alerts_have_the_address_of_the_runbook_that_is_said_to_the_script() -> None:
    groups = script.prometheus_rule("https://example.com/runbook.html")["spec"]["groups"]
    urls = {
        rule["alert"]: rule["annotations"]["runbook_url"]
        for group in groups
        for rule in group["rules"]
        if "alert" in rule
    }
    assert urls["DiskFull"] == "https://example.com/runbook.html#diskfull"
    assert len(urls) > 10


def test_a_start_that_fails_for_good_ends_the_container_and_shows_its_cause() -> None:
    assert settings("one-container").on_engine_failure is OnEngineFailure.EXIT
    policy = sidecar("one-container")["terminationMessagePolicy"]
    assert policy == "FallbackToLogsOnError"


# Least rights -----------------------------------------------------------------------------------


@VARIANTS
def test_containers_have_no_rights_and_cannot_write_where_they_need_not(variant: str) -> None:
    whole = pod(variant)["securityContext"]
    assert (whole["runAsNonRoot"], whole["runAsUser"], whole["runAsGroup"]) == (True, 2000, 0)
    assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod(variant)["automountServiceAccountToken"] is False
    assert pod(variant)["enableServiceLinks"] is False, "a service named metrics sets METRICS_PORT"
    volumes = {volume["name"] for volume in pod(variant)["volumes"]}
    for container in containers(variant):
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes


@VARIANTS
def test_who_runs_the_engine_can_write_to_caches_home_tmp_and_shared_memory(variant: str) -> None:
    engine = containers(variant)[0]
    assert engine["resources"]["limits"] == {"nvidia.com/gpu": 1}
    mounted = {mount["mountPath"]: mount["name"] for mount in engine["volumeMounts"]}
    given = {each["name"]: each.get("value") for each in engine["env"]}
    image = (ROOT / "Dockerfile").read_text()
    for cache in ("HF_HOME", "VLLM_CACHE_ROOT"):
        (built_in,) = re.findall(rf"\b{cache}=(\S+)", image)
        assert given.get(cache, built_in) == built_in, "the same volume serves both ways"
        assert Path(built_in).parent.as_posix() in mounted
    assert {given["HOME"], "/tmp", "/dev/shm"} <= set(mounted)
    shared = {volume["name"]: volume for volume in pod(variant)["volumes"]}[mounted["/dev/shm"]]
    assert shared["emptyDir"] == {"medium": "Memory", "sizeLimit": "16Gi"}


@VARIANTS
def test_sidecar_can_keep_what_keys_have_used(variant: str) -> None:
    (home,) = re.findall(r"\bHF_HOME=(\S+)", (ROOT / "Dockerfile").read_text())
    place = data_directory(Settings.load({"HF_HOME": home} | environment(variant)))
    mounted = {mount["mountPath"] for mount in sidecar(variant)["volumeMounts"]}
    assert mounted & {str(folder) for folder in place.parents}


def test_sidecar_beside_the_engine_is_given_no_gpu() -> None:
    assert environment("beside-vllm")["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert "limits" not in sidecar("beside-vllm")["resources"]
    assert "NVIDIA_VISIBLE_DEVICES" not in environment("one-container"), (
        "the device plugin's to say"
    )


def test_engine_beside_the_sidecar_fetches_no_media_as_one_of_its_own() -> None:
    (engine,) = pod("beside-vllm")["initContainers"]
    own = engine_command(settings("beside-vllm"), model_path="m", served_names=["m"], has_gpu=True)
    after = own.argv.index("--allowed-media-domains") + 1
    assert f"--allowed-media-domains={own.argv[after]}" in engine["args"]
    given = {each["name"]: each.get("value") for each in engine["env"]}
    name = "VLLM_MEDIA_URL_ALLOW_REDIRECTS"
    assert given[name] == own.environ[name]


def test_engine_is_reached_through_the_sidecar_only_and_outlives_its_drain() -> None:
    (engine,) = pod("beside-vllm")["initContainers"]
    assert engine["restartPolicy"] == "Always", "it gets SIGTERM after the sidecar has ended"
    assert "startupProbe" not in engine, "the sidecar would not answer before it had succeeded"
    assert "ports" not in engine
    model, *flags = engine["args"]
    values = dict(flag[2:].partition("=")[::2] for flag in flags)
    assert values.keys() <= set(known_flags())
    url = settings("beside-vllm").upstream_url
    assert url == f"http://{values['host']}:{values['port']}"
    assert values["host"] == "127.0.0.1"
    assert model == settings("one-container").model_name
    preset = settings("one-container").preset
    assert preset is not None
    assert {flag_name(name) for name in preset.preset.engine_variables} <= values.keys()
    given = {each["name"]: each.get("value") for each in engine["env"]}
    assert given["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] == str(ENGINE_KEEP_ALIVE_SECONDS)
    assert given["VLLM_ENGINE_READY_TIMEOUT_S"] == str(ENGINE_READY_SECONDS)
    pinned = re.search(r"ARG VLLM_VERSION=(\S+)", (ROOT / "Dockerfile").read_text())
    assert pinned is not None
    assert engine["image"] == f"vllm/vllm-openai:{pinned[1]}"


@pytest.mark.parametrize(
    "address",
    [
        *("10.1.2.3", "172.16.0.1", "192.168.1.1", "127.0.0.1", "169.254.169.254", "100.64.0.1"),
        *("::1", "fd00:ec2::254", "fe80::1"),
    ],
)
def test_pod_cannot_fetch_from_inside_the_network(address: str) -> None:
    assert not may_fetch_from(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "172.32.0.1", "2606:4700::1111"])
def test_pod_can_fetch_from_public_addresses(address: str) -> None:
    assert may_fetch_from(address)


def may_fetch_from(address: str) -> bool:
    """Whether the network policy lets a connection to port 443 of `address` out."""
    rules = manifest("common/network-policy.yaml")["spec"]["egress"]
    blocks = [
        peer["ipBlock"]
        for rule in rules
        if any(port["port"] == 443 for port in rule["ports"])
        for peer in rule["to"]
    ]
    there = ipaddress.ip_address(address)
    return any(
        there in ipaddress.ip_network(block["cidr"])
        and not any(there in ipaddress.ip_network(but) for but in block["except"])
        for block in blocks
    )


# The fleet --------------------------------------------------------------------------------------


def router_manifests() -> dict[str, Manifest]:
    documents = yaml.safe_load_all((K8S / "fleet/router.yaml").read_text())
    return {document["kind"]: document for document in documents}


def router_pod() -> Manifest:
    spec: Manifest = router_manifests()["Deployment"]["spec"]["template"]["spec"]
    return spec


@pytest.fixture(scope="module")
def built() -> dict[tuple[str, str], Manifest]:
    """What kubectl makes of the fleet, by kind and name."""
    documents = yaml.safe_load_all(build(K8S / "fleet"))
    return {(each["kind"], each["metadata"]["name"]): each for each in documents}


def test_sidecars_of_the_fleet_have_a_volume_each_and_are_else_the_pods_of_one_container(
    built: dict[tuple[str, str], Manifest],
) -> None:
    fleet = built["StatefulSet", "vllm-sidecar"]["spec"]
    assert fleet["replicas"] > 1
    (claim,) = fleet["volumeClaimTemplates"]
    alone = pod("one-container")
    mounted = {mount["name"] for mount in sidecar("one-container")["volumeMounts"]}
    (container,) = fleet["template"]["spec"]["containers"]
    for part in ("startupProbe", "livenessProbe", "readinessProbe", "securityContext", "ports"):
        assert container[part] == sidecar("one-container")[part]
    volumes = {volume["name"] for volume in fleet["template"]["spec"]["volumes"]}
    assert volumes | {claim["metadata"]["name"]} == mounted
    for part in ("securityContext", "terminationGracePeriodSeconds"):
        assert fleet["template"]["spec"][part] == alone[part]
    own = manifest("common/volume.yaml")["spec"]
    assert claim["spec"] == own, "as large as that of one alone"
    assert ("PersistentVolumeClaim", "vllm-sidecar") not in built
    assert ("Deployment", "vllm-sidecar") not in built


def test_router_finds_the_pods_of_the_sidecar_in_its_namespace() -> None:
    (container,) = router_pod()["containers"]
    arguments = container["args"]
    labels = manifest("one-container/deployment.yaml")["spec"]["selector"]["matchLabels"]
    assert arguments[-2:] == ["--selector", *(f"{key}={value}" for key, value in labels.items())]
    given = dict(each[2:].partition("=")[::2] for each in arguments[:-2])
    assert given["service-discovery-port"] == str(settings("one-container").port)
    assert given["service-discovery-namespace"] == "$(NAMESPACE)"
    assert [each["name"] for each in container["env"]] == ["NAMESPACE"]
    (rule,) = router_manifests()["Role"]["rules"]
    assert rule == {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}
    assert (
        router_pod()["serviceAccountName"]
        == router_manifests()["ServiceAccount"]["metadata"]["name"]
    )


def test_router_runs_as_in_the_compose_file() -> None:
    (container,) = router_pod()["containers"]
    kept = [
        each
        for each in shared(container["args"])
        if not each.startswith(("--service-discovery", "--selector"))
    ]
    assert kept == shared(compose_options())
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    options = dict(each[2:].partition("=")[::2] for each in container["args"])
    assert ports == {"http": int(options["port"]), "metrics": int(options["prometheus-port"])}
    sidecars_drain = settings("one-container").drain_delay_seconds
    looks = float(options["health-check-interval-secs"]) + float(
        options["health-check-timeout-secs"]
    )
    assert sidecars_drain > looks, "it must see that a sidecar goes before that refuses"


def test_router_goes_on_until_nobody_sends_to_it_and_what_runs_may_end() -> None:
    (container,) = router_pod()["containers"]
    word, text = container["lifecycle"]["preStop"]["exec"]["command"]
    mine = settings("one-container")
    assert (word, float(text)) == ("sleep", mine.drain_delay_seconds), "as long as a sidecar"
    left = router_pod()["terminationGracePeriodSeconds"] - float(text)
    assert left >= pod("one-container")["terminationGracePeriodSeconds"]


def test_router_has_no_rights_either() -> None:
    whole = router_pod()["securityContext"]
    assert whole["runAsNonRoot"] is True
    assert whole["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = router_pod()["containers"]
    assert container["securityContext"] == sidecar("one-container")["securityContext"]
    policy = router_manifests()["NetworkPolicy"]["spec"]
    labels = router_manifests()["Deployment"]["spec"]["selector"]["matchLabels"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert router_manifests()["Service"]["spec"]["selector"] == labels
    (to_sidecars,) = (rule["to"] for rule in policy["egress"] if "to" in rule)
    sidecars = manifest("common/network-policy.yaml")["spec"]["podSelector"]
    assert to_sidecars == [{"podSelector": sidecars}]
