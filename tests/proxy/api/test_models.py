"""The rows of /models: who sees which."""

from __future__ import annotations

import json
from collections.abc import Mapping

import httpx
import pytest

from proxy.engine.phase import Phase
from tests.proxy.house import House, house

OPS = {"x-api-key": "sk-ops-0123456789"}
ALICE, BOB = {"x-api-key": "sk-alice-0123456789"}, {"authorization": "Bearer sk-bob-0123456789"}
SEVERAL = {
    "MODEL_NAME": "one,two",
    "MODELS_INLINE": json.dumps(
        {
            "one": {"repository": "org/first", "served_names": ["org/first", "uno"]},
            "two": {"repository": "org/second", "keys": ["bob"]},
        }
    ),
    "API_KEYS": "alice:sk-alice-0123456789,bob:sk-bob-0123456789",
    "ADMIN_KEYS": "ops:sk-ops-0123456789",
}


async def names(there: House, headers: Mapping[str, str]) -> list[str]:
    answer = await there.get("/models", headers=dict(headers))
    assert answer.status_code == 200, answer.text
    return [row["name"] for row in answer.json()["models"]]


async def test_a_single_model_has_a_row_too() -> None:
    async with house(MODEL_NAME="org/model") as there:
        there.enter(Phase.LOADING, progress=0.25)
        (row,) = (await there.get("/models")).json()["models"]
        assert (row["name"], row["served_names"]) == ("demo", ["demo", "alias", "org/model"])
        assert (row["phase"], row["progress"], row["in_flight"]) == ("loading", 0.25, 0)
        for path in ("/models/alias", "/models/org/model", "/models/org%2Fmodel", "/models/demo/"):
            again = (await there.get(path)).json()
            assert again.keys() == row.keys()
            assert again["served_names"] == row["served_names"]


async def test_a_key_sees_the_models_that_it_may_use_and_an_admin_all() -> None:
    async with house(**SEVERAL) as there:
        assert await names(there, ALICE) == ["org/first"]
        assert await names(there, BOB) == ["org/first", "two"]
        assert await names(there, OPS) == ["org/first", "two"]
        assert (await there.get("/models")).status_code == 401


@pytest.mark.parametrize("path", ["/models/one", "/models/org/first", "/models/org%2Ffirst"])
async def test_a_model_is_found_by_any_of_its_names(path: str) -> None:
    async with house(**SEVERAL) as there:
        answer = await there.get(path, headers=ALICE)
        assert answer.json()["served_names"] == ["org/first", "uno", "one"]


async def test_an_unknown_model_is_404_with_the_names_that_the_key_may_know() -> None:
    async with house(**SEVERAL) as there:

        async def refused(path: str, headers: Mapping[str, str]) -> httpx.Response:
            answer = await there.get(path, headers=dict(headers))
            assert answer.json()["error"]["code"] == "model_not_found"
            assert answer.status_code == 404
            return answer

        alice = await refused("/models/two", ALICE)
        assert alice.json()["error"]["message"] == (
            "There is no model two here. There is: org/first."
        )
        assert "org/first, two." in (await refused("/models/three", OPS)).text
        await refused("/models//", OPS)


async def test_an_admin_key_is_no_api_key_and_opens_no_other_page() -> None:
    async with house(**SEVERAL) as there:
        for path in ("/info", "/metrics", "/v1/models", "/nowhere"):
            assert (await there.get(path, headers=OPS)).status_code == 401, path
    both = {**SEVERAL, "ADMIN_KEYS": "ops:sk-alice-0123456789"}
    async with house(**both) as there:
        assert (await there.get("/info", headers=ALICE)).status_code == 200
        assert await names(there, ALICE) == ["org/first", "two"]


# Orders ---------------------------------------------------------------------------------------


async def ordered(there: House, path: str, headers: Mapping[str, str] = OPS) -> httpx.Response:
    return await there.http.post(path, headers=dict(headers))


@pytest.mark.parametrize("name", ["two", "org/second", "org%2Fsecond"])
@pytest.mark.parametrize("action", ["load", "unload", "pin", "unpin"])
async def test_an_order_is_answered_with_the_row(name: str, action: str) -> None:
    presets = {
        "one": {"repository": "org/first"},
        "two": {"repository": "org/second", "keys": ["bob"]},
    }
    async with house(**{**SEVERAL, "MODELS_INLINE": json.dumps(presets)}) as there:
        answer = await ordered(there, f"/models/{name}/{action}")
        assert answer.status_code == 202, answer.text
        row = answer.json()
        assert (row["name"], row["pinned"]) == ("two", action == "pin")
        again = (await there.get("/models/two", headers=OPS)).json()
        assert again["pinned"] is row["pinned"]


async def test_an_order_needs_an_admin_and_a_model() -> None:
    async with house(**SEVERAL) as there:
        for headers in (ALICE, BOB, {}):
            for action in ("load", "unload", "pin", "unpin"):
                assert (await ordered(there, f"/models/two/{action}", headers)).status_code == 401
        unknown = await ordered(there, "/models/three/load")
        assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
        assert "There is: org/first, two." in unknown.text
        wrong = await ordered(there, "/models/two/sleep", ALICE)
        assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")
    async with house(MODEL_NAME="org/model") as there:
        refused = await ordered(there, "/models/org/model/unload", {})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "admin_only")


async def test_a_pin_that_can_never_fit_and_the_unload_of_a_pinned_one_are_refused() -> None:
    async with house(**SEVERAL, MAX_LOADED_MODELS="1") as there:
        assert (await ordered(there, "/models/one/pin")).status_code == 202
        for action in ("pin", "load"):
            refused = await ordered(there, f"/models/two/{action}")
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_conflict")
            assert "does not fit beside" in refused.json()["error"]["message"]
        assert not (await there.get("/models/two", headers=OPS)).json()["pinned"]
        kept = await ordered(there, "/models/one/unload")
        assert (kept.status_code, "unpin it first" in kept.text) == (409, True)
        assert (await ordered(there, "/models/one/unpin")).status_code == 202
        assert (await ordered(there, "/models/two/pin")).status_code == 202


async def test_a_server_that_ends_takes_no_order() -> None:
    async with house(**SEVERAL) as there:
        there.lifecycle.announce_stop()
        assert (await ordered(there, "/models/two/load")).status_code == 503


async def test_engines_of_someone_else_take_no_order() -> None:
    environ = {
        "UPSTREAM_URL": "one=http://127.0.0.1:9,two=http://127.0.0.1:10",
        "ADMIN_KEYS": SEVERAL["ADMIN_KEYS"],
    }
    async with house(**environ) as there:
        assert await names(there, {}) == ["one", "two"]
        for action in ("load", "unload", "pin", "unpin"):
            answer = await ordered(there, f"/models/two/{action}")
            assert (answer.status_code, "someone else" in answer.text) == (409, True)
