"""RunPod's files say what the settings say; the template gets there through RunPod's API."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from proxy.settings import Settings, variables
from proxy.vllm.command import warnings_about
from scripts.reference import as_text
from tests.readme import blocks, commands, words

ROOT = Path(__file__).resolve().parent.parent
KEY = "rpa_NOBODYS"
# TemplateCreateInput and TemplateUpdateInput of RunPod's OpenAPI document (REST API v1).
UPDATE_FIELDS = {
    *("containerDiskInGb", "containerRegistryAuthId", "dockerEntrypoint", "dockerStartCmd", "env"),
    *("imageName", "isPublic", "name", "ports", "readme", "volumeInGb", "volumeMountPath"),
}
CREATE_FIELDS = {*UPDATE_FIELDS, "category", "isServerless"}

Document = dict[str, Any]


def read(path: str) -> Document:
    document = json.loads((ROOT / path).read_text(encoding="utf-8"))
    assert isinstance(document, dict)
    return document


def settings_of(env: dict[str, str]) -> Settings:
    """What the sidecar makes of `env`; fails where a name or value means nothing to it."""
    settings = Settings.load(env)
    assert warnings_about(settings) == ()
    return settings


# .runpod ------------------------------------------------------------------------------------------


def entries() -> dict[str, Document]:
    return {entry["key"]: entry for entry in read(".runpod/hub.json")["config"]["env"]}


# What RunPod needs to be other than the default.
ON_RUNPOD = {"SSE_KEEP_ALIVE_SECONDS": "15"}


def test_hub_form_has_every_variable_with_its_default() -> None:
    form = entries()
    for field, (name, *aliases) in variables().items():
        if name == "UPSTREAM_URL":
            continue
        default = ON_RUNPOD.get(name, as_text(Settings.model_fields[field].default))
        entry = form[name]
        shown = entry.get("value", entry.get("input", {}).get("default"))
        assert as_text(shown) == default, name
        assert not set(aliases) & form.keys()
        assert "value" in entry or entry["input"]["description"]


def test_hub_form_filled_in_by_nobody_starts_the_sidecar_with_its_defaults() -> None:
    given = {item["key"]: item["value"] for item in read(".runpod/tests.json")["config"]["env"]}
    for name in ("MODEL_NAME", "MAX_MODEL_LEN"):
        del given[name]
    assert settings_of(given).model_dump() == Settings.load(ON_RUNPOD).model_dump()


def test_hub_presets_are_four_models_with_values_the_form_knows() -> None:
    presets = read(".runpod/hub.json")["config"]["presets"]
    assert len(presets) == 4
    types = {"number": int, "boolean": bool, "string": str, "huggingface": str}
    for preset in presets:
        assert preset["name"] == preset["defaults"]["MODEL_NAME"]
        for name, value in preset["defaults"].items():
            assert type(value) is types[entries()[name]["input"]["type"]], (preset["name"], name)
        settings_of({name: str(value) for name, value in preset["defaults"].items()})


def test_hub_listing_is_a_load_balancer_for_machines_that_the_image_runs_on() -> None:
    config = read(".runpod/hub.json")["config"]
    assert config["endpointType"] == "LB"
    assert config["allowedCudaVersions"] == ["13.0"], "the plain tag of the image needs CUDA 13"
    assert read(".runpod/tests.json")["config"]["allowedCudaVersions"] == ["13.0"]
    assert entries()["PORT"]["value"] == str(Settings.load({}).port)
    assert sum("value" in each or "default" in each["input"] for each in entries().values()) <= 50


# The templates ------------------------------------------------------------------------------------


class Call(NamedTuple):
    method: str
    path: str
    body: Document | None


class Api(NamedTuple):
    """RunPod's API, as far as templates go."""

    url: str
    calls: list[Call]
    templates: list[Document]


@pytest.fixture
def api() -> Iterator[Api]:
    calls: list[Call] = []
    templates: list[Document] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = json.loads(self.rfile.read(length)) if length else None
            calls.append(Call(self.command, self.path, body))
            allowed = self.headers["authorization"] == f"Bearer {KEY}"
            said: Any = templates if self.command == "GET" else {"id": "t1", **(body or {})}
            if not allowed:
                said = {"message": f"not {self.headers['authorization']}"}
            self.send_response(200 if allowed else 401)
            self.end_headers()
            self.wfile.write(json.dumps(said).encode())

        do_POST = do_PATCH = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Api(f"http://127.0.0.1:{server.server_port}/v1", calls, templates)
        server.shutdown()


def script(*arguments: str, key: str | None = KEY) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != "RUNPOD_API_KEY"}
    environ |= {"RUNPOD_API_KEY": key} if key else {}
    command = [sys.executable, str(ROOT / "scripts/runpod_template.py"), *arguments]
    return subprocess.run(command, env=environ, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", ["pod", "serverless"])
def test_template_is_printed_and_nothing_is_sent(kind: str, api: Api) -> None:
    done = script(kind, "--image", "me/vllm-sidecar:1", "--api", api.url, key=None)
    assert done.returncode == 0
    shown = json.loads(done.stdout)
    assert shown.keys() <= CREATE_FIELDS
    assert shown["imageName"] == "me/vllm-sidecar:1"
    assert shown["isServerless"] is (kind == "serverless")
    assert shown["readme"].startswith("# ")
    assert "dry run" in done.stderr
    assert not api.calls


def test_template_is_created_where_there_is_none_of_its_name(api: Api) -> None:
    api.templates.append({"id": "t0", "name": "another", "isServerless": False})
    done = script("pod", "--image", "me/x:1", "--api", api.url, "--apply")
    assert (done.returncode, done.stdout) == (0, "created vllm-sidecar (t1)\n"), done.stderr
    asked, made = api.calls
    # Without this, a template that an endpoint uses is not listed.
    assert asked == Call("GET", "/v1/templates?includeEndpointBoundTemplates=true", None)
    assert (made.method, made.path) == ("POST", "/v1/templates")
    assert made.body == json.loads(script("pod", "--image", "me/x:1").stdout)


def test_the_guides_command_makes_the_template_of_the_stock_image(api: Api) -> None:
    guide = (ROOT / "docs/runpod.md").read_text()
    (typed,) = re.findall(r"`python3 scripts/runpod_template.py (stock-image .*?)`", guide)
    done = script(*typed.split(), "--api", api.url)
    assert (done.returncode, done.stdout) == (0, "created vllm-sidecar-stock-image (t1)\n")
    assert api.calls[-1].body == json.loads(script("stock-image").stdout)


def test_template_of_that_name_is_updated_with_the_fields_an_update_has(api: Api) -> None:
    api.templates.append({"id": "t7", "name": "mine", "isServerless": True})
    done = script("serverless", "--image", "me/x:2", "--name", "mine", "--api", api.url, "--apply")
    assert (done.returncode, done.stdout) == (0, "updated mine (t7)\n"), done.stderr
    _, changed = api.calls
    assert (changed.method, changed.path) == ("PATCH", "/v1/templates/t7")
    assert changed.body is not None
    assert changed.body.keys() <= UPDATE_FIELDS
    assert changed.body["imageName"] == "me/x:2"


def test_an_update_keeps_the_variables_that_somebody_has_added(api: Api) -> None:
    mine = {"API_KEYS": "{{ RUNPOD_SECRET_api_keys }}", "SSE_KEEP_ALIVE_SECONDS": "1"}
    api.templates.append({"id": "t7", "name": "vllm-sidecar", "isServerless": False, "env": mine})
    done = script("pod", "--image", "me/x:2", "--api", api.url, "--apply")
    assert done.stdout == "updated vllm-sidecar (t7); kept API_KEYS\n", done.stderr
    _, changed = api.calls
    assert changed.body is not None
    shipped = read("deploy/runpod/pod.json")["env"]
    assert changed.body["env"] == {**shipped, "API_KEYS": mine["API_KEYS"]}


@pytest.mark.parametrize(
    ("kind", "there", "is_for"),
    [("pod", {"isServerless": True}, "serverless endpoints"), ("serverless", {}, "pods")],
)
def test_template_for_pods_is_not_made_one_for_endpoints(
    api: Api, kind: str, there: dict[str, Any], is_for: str
) -> None:
    api.templates.append({"id": "t7", "name": "mine", **there})
    done = script(kind, "--image", "me/x:2", "--name", "mine", "--api", api.url, "--apply")
    assert done.returncode == 1
    assert f"is a template for {is_for}" in done.stderr
    assert [call.method for call in api.calls] == ["GET"]


def test_a_wrong_key_is_told_without_the_key(api: Api) -> None:
    done = script("pod", "--image", "me/x:1", "--api", api.url, "--apply", key="rpa_WRONG")
    assert done.returncode == 1
    assert ": 401 " in done.stderr
    assert "rpa_WRONG" not in done.stderr + done.stdout


@pytest.mark.parametrize(
    ("options", "key", "said"),
    [
        ([], None, "set RUNPOD_API_KEY"),
        (["--api", "http://rest.example/v1"], KEY, "https only"),
        (["--api", "http://127.0.0.1:1/v1"], KEY, "GET /templates"),
    ],
)
def test_what_cannot_be_sent_is_told_in_one_line(
    options: list[str], key: str | None, said: str
) -> None:
    done = script("pod", "--image", "me/x:1", "--apply", *options, key=key)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_stock_image_takes_the_package_in_as_readme_says() -> None:
    content = json.loads(script("stock-image", key=None).stdout)
    (command,) = commands(blocks("README.md", "console")[0])
    typed = words(command)
    base = next(word for word in typed if word.startswith("vllm/"))
    assert content["imageName"] == base
    assert content["dockerEntrypoint"] == [typed[typed.index("--entrypoint") + 1], "-c"]
    assert content["dockerStartCmd"] == [typed[typed.index("-c") + 1]]
    assert content.keys() <= CREATE_FIELDS
    pod = read("deploy/runpod/pod.json")
    image = {"HF_HOME": "/workspace/huggingface", "VLLM_CACHE_ROOT": "/workspace/vllm"}
    assert content["env"] == {**pod["env"], **image}, "what the image of ours sets"
    assert all(
        f"{name}={folder}" in (ROOT / "Dockerfile").read_text() for name, folder in image.items()
    )
    same = pod.keys() - {"name", "dockerEntrypoint", "dockerStartCmd", "env"}
    assert {field: content[field] for field in same} == {field: pod[field] for field in same}


def test_an_image_of_ones_own_must_be_named(api: Api) -> None:
    done = script("pod", "--api", api.url, "--apply")
    assert done.returncode == 1
    assert done.stderr == "runpod_template: pod: --image YOU/vllm-sidecar:0.1 is missing\n"
    assert not api.calls


@pytest.mark.parametrize("kind", ["pod", "serverless"])
def test_template_fits_the_image(kind: str) -> None:
    content = read(f"deploy/runpod/{kind}.json")
    settings = settings_of(content["env"])
    assert content["ports"] == [f"{settings.port}/http"]
    assert content["dockerEntrypoint"] == content["dockerStartCmd"] == [], "the image's own"
    assert settings.sse_keep_alive_seconds == 15, "its proxy cuts what is quiet for 100 s"
    if kind == "pod":
        assert "HF_HOME=/workspace/" in (ROOT / "Dockerfile").read_text()
        assert content["volumeMountPath"] == "/workspace"
    else:
        assert content["env"]["HEALTH_CHECK_PATH"] == settings.health_check_path
        assert content["volumeInGb"] == 0, "endpoints have none, and the API's default is 20"
