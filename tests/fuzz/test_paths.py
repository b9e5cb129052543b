"""Request targets in any spelling."""

from __future__ import annotations

from hypothesis import given

from tests.attacks.paths import CONTROL
from tests.fuzz.making import jumble, repeatable, spoilt
from tests.fuzz.paths import ALLOWED, check, engine_routes, matched
from tests.fuzz.seeds import TARGETS, TOKENS

WORDS = TOKENS["paths"]


@repeatable
@given(spoilt([*TARGETS, *map(str.encode, sorted(ALLOWED))], WORDS) | jumble(WORDS))
def test_no_spelling_of_a_target_leads_beyond_the_allow_list(target: bytes) -> None:
    check(target)


def test_no_route_of_the_engine_is_reached_but_those_on_the_allow_list() -> None:
    paths = {getattr(route, "path", "") for route in engine_routes()}
    assert {"/pause", "/v1/responses/render", "/metrics", "/v1/load_lora_adapter"} <= paths
    for path in paths - ALLOWED:
        for name in ("resp_1", "x", "render", ".."):
            assert check(path.replace("{name}", name).encode()) is None, path


def test_every_route_that_is_allowed_is_one_of_the_engines() -> None:
    paths = {getattr(route, "path", "") for route in engine_routes()}
    # Of other versions of vLLM, and of vLLM-Omni.
    assert ALLOWED - paths == {"/v1/responses/{response_id}/input_items", "/v1/audio/speech"}
    assert matched("/v1/responses/resp_1/cancel") == {"/v1/responses/{response_id}/cancel"}
    assert matched("/metrics/x") == {"/metrics"}


def test_every_route_of_the_engine_is_relayed_or_named_as_refused_in_security_md() -> None:
    paths = {getattr(route, "path", "") for route in engine_routes()}
    assert paths - ALLOWED <= set(CONTROL)
