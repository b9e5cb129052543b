"""The allow-list: what is the engine's, by the bytes of the path, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.access.routes import ALIASES, ROUTES, Route, RouteSpec, RouteTable
from proxy.server.request import MAX_PATH_BYTES
from tests.attacks.paths import CONTROL, TARGETS

TABLE = RouteTable()
WITH_NAMES = {
    "/v1/responses/resp_0a1b": Route.RESPONSES,
    "/v1/responses/resp_0a1b/cancel": Route.RESPONSES,
    "/v1/responses/resp_0a1b/input_items": Route.RESPONSES,
    "/v1/models/demo": Route.MODELS,
    "/v1/models/Qwen/Qwen2-VL-7B-Instruct": Route.MODELS,
    "/v1/models/Qwen%2FQwen2-VL": Route.MODELS,
    "/v1/models/org/model.v1..2": Route.MODELS,
}


def test_every_kind_of_work_is_declared_once() -> None:
    assert [spec.route for spec in ROUTES] == list(Route)


def test_no_route_is_declared_without_saying_where_its_body_names_media() -> None:
    with pytest.raises(TypeError, match="media_fields"):
        RouteSpec(route=Route.CHAT, endpoints=())  # type: ignore[call-arg]


def test_a_declared_path_is_relayed_and_its_template_is_not() -> None:
    for path, (spec, _) in TABLE.listed.items():
        assert TABLE.find(path.encode()) is (None if "{" in path else spec.route), path


def test_another_word_for_a_path_is_sent_to_the_path() -> None:
    assert TABLE.find(b"/chat/completions") is Route.CHAT
    assert ALIASES[b"/chat/completions"] == b"/v1/chat/completions"
    assert ALIASES[b"/completions"] == b"/v1/completions"


@pytest.mark.parametrize(("path", "route"), WITH_NAMES.items())
def test_a_path_with_a_name_is_relayed_as_its_kind_of_work(path: str, route: Route) -> None:
    assert TABLE.find(path.encode()) is route


@pytest.mark.parametrize("path", CONTROL)
def test_vllms_control_routes_are_out_of_reach(path: str) -> None:
    assert TABLE.find(path.encode()) is None


@pytest.mark.parametrize("target", TARGETS)
def test_no_other_way_to_write_a_path_leads_to_the_engine(target: str) -> None:
    assert TABLE.find(target.encode()) is None


@given(st.lists(st.sampled_from(["..", ".", "%2e%2e", "", "pause", "v1", "x", ";", "%2f"])))
def test_no_segments_after_models_climb_out_of_it(segments: list[str]) -> None:
    path = "/v1/models/" + "/".join(segments)
    climbs = {"..", ".", "", "%2e%2e", "%2f", ";"} & set(segments) or not segments
    if climbs:
        assert TABLE.find(path.encode()) is None


@pytest.mark.parametrize("name", ["a%20b", "%C3%BC", "a%2Fb", "a%3Ab", "Qwen2.5-VL%407B", "a..b"])
def test_a_name_may_be_written_with_escapes(name: str) -> None:
    assert TABLE.find(f"/v1/models/{name}".encode()) is Route.MODELS


def test_a_path_that_is_longer_than_any_name_is_not_looked_through() -> None:
    assert TABLE.find(b"/v1/models/".ljust(MAX_PATH_BYTES, b"a")) is Route.MODELS
    assert TABLE.find(b"/v1/models/".ljust(MAX_PATH_BYTES + 1, b"a")) is None


def test_paths_of_the_operator_are_relayed_exactly_as_given() -> None:
    table = RouteTable(["/load", "/inference/v1/generate", "/ünï"])
    assert table.find(b"/load") is Route.EXTRA
    assert table.find(b"/inference/v1/generate") is Route.EXTRA
    assert table.find("/ünï".encode()) is Route.EXTRA
    assert table.find(b"/load/") is None
    assert table.find(b"/pause") is None


def test_paths_of_the_operator_change_no_known_kind_of_work() -> None:
    assert RouteTable(["/v1/chat/completions"]).find(b"/v1/chat/completions") is Route.CHAT


def test_paths_of_protocols_are_those_that_nobody_else_has() -> None:
    table = RouteTable(["/load", "/generate"], ["/summarize", "/load", "/v1/completions"])
    assert table.find(b"/summarize") is Route.PROTOCOL
    assert table.find(b"/load") is table.find(b"/generate") is Route.EXTRA
    assert table.find(b"/v1/completions") is Route.COMPLETIONS
