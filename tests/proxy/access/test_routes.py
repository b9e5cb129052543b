"""The allow-list: what is the engine's, by the bytes of the path, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.access.routes import Route, RouteTable
from tests.attacks.paths import CONTROL, TARGETS

TABLE = RouteTable()
LISTED = {
    "/v1/chat/completions": Route.CHAT,
    "/v1/completions": Route.COMPLETIONS,
    "/chat/completions": Route.CHAT,
    "/completions": Route.COMPLETIONS,
    "/v1/responses": Route.RESPONSES,
    "/v1/responses/resp_0a1b": Route.RESPONSES,
    "/v1/responses/resp_0a1b/cancel": Route.RESPONSES,
    "/v1/responses/resp_0a1b/input_items": Route.RESPONSES,
    "/v1/messages": Route.MESSAGES,
    "/v1/messages/count_tokens": Route.COUNT_TOKENS,
    "/v1/embeddings": Route.EMBEDDINGS,
    "/v1/models": Route.MODELS,
    "/v1/models/demo": Route.MODELS,
    "/v1/models/Qwen/Qwen2-VL-7B-Instruct": Route.MODELS,
    "/v1/models/Qwen%2FQwen2-VL": Route.MODELS,
    "/v1/models/org/model.v1..2": Route.MODELS,
    "/v1/audio/transcriptions": Route.AUDIO,
    "/v1/audio/translations": Route.AUDIO,
    "/v1/audio/speech": Route.AUDIO,
    "/v1/realtime": Route.REALTIME,
    "/v1/rerank": Route.RERANK,
    "/v2/rerank": Route.RERANK,
    "/rerank": Route.RERANK,
    "/v1/score": Route.SCORE,
    "/score": Route.SCORE,
    "/pooling": Route.POOLING,
    "/classify": Route.CLASSIFY,
    "/tokenize": Route.TOKENIZE,
    "/detokenize": Route.TOKENIZE,
    "/version": Route.VERSION,
    "/generate": Route.GENERATE,
    "/generate_stream": Route.GENERATE,
}


@pytest.mark.parametrize(("path", "route"), LISTED.items())
def test_a_listed_path_is_relayed_as_its_kind_of_work(path: str, route: Route) -> None:
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


def test_every_kind_of_work_has_a_path() -> None:
    without_path = {Route.PROTOCOL, Route.EXTRA, Route.UNKNOWN}
    assert set(LISTED.values()) == set(Route) - without_path
