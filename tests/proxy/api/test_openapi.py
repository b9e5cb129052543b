"""/openapi.json says what this server answers, with these settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from proxy import __version__, errors
from proxy.access.routes import RouteTable
from proxy.api.openapi import REFUSALS
from proxy.engine.phase import Phase
from proxy.errors import Cause, RequestFailure
from tests.proxy.house import House, house

KEY = {"x-api-key": "sk-1234567890123456"}
KEYS = f"me:{KEY['x-api-key']}"
# A client that has left gets no answer; what is no route of the engine's is not described, and
# what only pages of ours refuse stands at those.
_NOT_DESCRIBED = {499, 404, 405, 409}


PROTOCOL = """
from proxy.protocols.generate import Generate


class Mine(Generate):
    paths = ("/mine", "/mine/too")
"""


async def description(there: House, **headers: str) -> dict[str, Any]:
    answer = await there.get("/openapi.json", headers=headers)
    assert answer.status_code == 200
    said: dict[str, Any] = answer.json()
    return said


def relayed(said: dict[str, Any]) -> set[str]:
    return {path for path, item in said["paths"].items() if _tags(item) == ["engine"]}


def _tags(item: dict[str, Any]) -> list[str]:
    operations = (operation for name, operation in item.items() if name != "parameters")
    tags: list[str] = next(operations)["tags"]
    return tags


def assert_described(said: dict[str, Any], name: str, body: Any) -> None:
    Draft202012Validator({**said, "$ref": f"#/components/schemas/{name}"}).validate(body)


async def test_all_pages_of_ours_and_all_routes_of_the_engines_are_in_it() -> None:
    async with house() as there:
        said = await description(there)
        assert said["info"]["version"] == __version__
        pages = {path for path in said["paths"] if path not in relayed(said)}
        assert pages == there.sidecar.dispatch._built_in.paths
        assert relayed(said) == RouteTable().listed.keys()
        for path in relayed(said):
            at = path.replace("{response_id}", "resp_1").replace("{model}", "demo")
            assert RouteTable().find(at.encode()) is RouteTable().listed[path][0].route, path


def test_every_status_that_the_sidecar_refuses_with_is_in_it() -> None:
    def tree(kind: type[RequestFailure]) -> set[int]:
        return {kind.status}.union(*map(tree, kind.__subclasses__()))

    assert tree(errors.RequestFailure) - _NOT_DESCRIBED == REFUSALS.keys()


async def test_closed_sets_are_whole() -> None:
    async with house() as there:
        schemas = (await description(there))["components"]["schemas"]
        assert schemas["Health"]["properties"]["phase"]["enum"] == list(Phase)
        assert schemas["Info"]["properties"]["engine"]["properties"]["phase"]["enum"] == list(Phase)


@pytest.mark.parametrize("phase", Phase)
async def test_in_every_phase_the_pages_are_as_described(phase: Phase) -> None:
    known: dict[str, Any] = {
        "progress": 0.25,
        "eta_seconds": 10.0,
        "downloaded_bytes": 5,
        "download_bytes": 20,
        "reason": "it crashed",
        "remedy": "another model",
        "cause": Cause.CRASHED,
    }
    async with house(MODEL_NAME="qwen2.5-vl-7b", MAX_IN_FLIGHT="3", REQUEST_TIMEOUT="9") as there:
        said = await description(there)
        there.enter(phase, **known)
        await there.chat()
        assert_described(said, "Health", (await there.get("/health")).json())
        assert_described(said, "Info", (await there.get("/info")).json())
        rows = (await there.get("/info/requests")).json()
        assert_described(said, "Requests", rows)
        assert rows["requests"]


async def test_who_needs_a_key_is_told_so() -> None:
    async with house() as there:
        assert "security" not in await description(there)
    async with house(API_KEYS=KEYS) as there:
        assert (await there.get("/openapi.json")).status_code == 401
        said = await description(there, **KEY)
        assert said["security"] == [{"x-api-key": []}, {"bearer": []}]
        assert said["paths"]["/health"]["get"]["security"] == []
        assert "401" in said["paths"]["/info"]["get"]["responses"]
        assert "security" not in said["paths"]["/v1/models"]["get"]


async def test_what_settings_move_is_where_it_was_moved_to() -> None:
    moved = {"HEALTH_CHECK_PATH": "/alive", "METRICS_PORT": "9100", "EXTRA_ROUTES": "/v2/embed"}
    async with house(**moved) as there:
        paths = (await description(there))["paths"]
        assert "204" in paths["/alive"]["get"]["responses"]
        assert not {"/ping", "/metrics", "/metrics/engine"} & paths.keys()
        assert paths["/v2/embed"].keys() == {"get", "post"}


async def test_protocols_of_ones_own_are_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "described_protocol.py").write_text(PROTOCOL)
    monkeypatch.syspath_prepend(tmp_path)
    mine = {"PROTOCOL_MODULES": "described_protocol", "PROTOCOLS": "described_protocol:Mine"}
    async with house(**mine) as there:
        said = await description(there)
        for path in ("/mine", "/mine/too"):
            assert said["paths"][path].keys() == {"post"}
            operation = said["paths"][path]["post"]
            assert operation["summary"] == "Translated to the engine (protocol)."
            refusals = {
                answer["$ref"] for answer in operation["responses"].values() if "$ref" in answer
            }
            assert refusals == {"#/components/responses/RefusedProtocol"}
        assert "RefusedProtocol" in said["components"]["responses"]


async def test_the_operator_may_have_the_engines_own_in_its_place() -> None:
    async with house(EXTRA_ROUTES="/openapi.json") as there:
        answer = await there.get("/openapi.json")
        assert answer.headers["x-proxy-error"] == "upstream engine_unavailable"


async def test_a_page_of_ours_says_which_methods_it_takes() -> None:
    async with house() as there:
        for path, methods in (("/info", "GET, HEAD"), ("/models/x/load", "POST")):
            answer = await there.http.put(path)
            assert answer.status_code == 405
            assert answer.headers["allow"] == methods, "in this order in each process"
