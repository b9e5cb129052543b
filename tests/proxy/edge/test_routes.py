"""The allow-list: what is the engine's, by the bytes of the path, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.edge.routes import Route, RouteTable

TABLE = RouteTable()
LISTED = {
    "/v1/chat/completions": Route.CHAT,
    "/v1/completions": Route.COMPLETIONS,
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
}
# What vLLM serves besides, with development mode, LoRA and SageMaker on.
VLLM_CONTROL = (
    *("/pause", "/resume", "/is_paused", "/sleep", "/wake_up", "/is_sleeping", "/reset_mm_cache"),
    *("/reset_prefix_cache", "/reset_encoder_cache", "/collective_rpc", "/server_info", "/load"),
    *("/scale_elastic_ep", "/is_scaling_elastic_ep", "/abort_requests", "/init_weight_transfer"),
    *("/update_weights", "/get_world_size", "/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
    *("/start_profile", "/stop_profile", "/invocations", "/inference/v1/generate", "/ping"),
    *("/tokenizer_info", "/docs", "/redoc", "/openapi.json", "/metrics", "/health", "/cohere/v2"),
    *("/v1/chat/completions/render", "/v1/completions/render", "/derender"),
)


@pytest.mark.parametrize(("path", "route"), LISTED.items())
def test_a_listed_path_is_relayed_as_its_kind_of_work(path: str, route: Route) -> None:
    assert TABLE.find(path.encode()) is route


@pytest.mark.parametrize("path", VLLM_CONTROL)
def test_vllms_control_routes_are_out_of_reach(path: str) -> None:
    assert TABLE.find(path.encode()) is None


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "*",
        "/v1",
        "/v1/",
        "v1/chat/completions",
        "/V1/chat/completions",
        "/v1/chat/completions/",
        "//v1/chat/completions",
        "/v1//chat/completions",
        "/v1/chat/completions?x=1",
        "/v1/chat/completions\n",
        "/v1/chat/completions\x00",
        "/v1/chat/../chat/completions",
        "/v1/%63hat/completions",
        "/v1%2Fchat%2Fcompletions",
        "http://127.0.0.1/v1/chat/completions",
        "/v1/models/",
        "/v1/models//x",
        "/v1/models/..",
        "/v1/models/../../pause",
        "/v1/models/x/../../../pause",
        "/v1/models/./x",
        "/v1/models/x\n",
        "/v1/models/x;y",
        "/v1/models/x?y",
        "/v1/responses/",
        "/v1/responses/..",
        "/v1/responses/a/b/c",
        "/v1/responses/a%2F..%2F..",
        "/v1/responses/a/../../pause",
        "/v1/realtime/",
        "/v1/audio/",
        "/v1/audio/other",
    ],
)
def test_no_other_way_to_write_a_path_leads_to_the_engine(path: str) -> None:
    assert TABLE.find(path.encode()) is None


@given(st.lists(st.sampled_from(["..", ".", "%2e%2e", "", "pause", "v1", "x", ";", "%2f"])))
def test_no_segments_after_models_climb_out_of_it(segments: list[str]) -> None:
    path = "/v1/models/" + "/".join(segments)
    climbs = {"..", ".", ""} & set(segments) or not segments
    if climbs:
        assert TABLE.find(path.encode()) is None


def test_a_dotted_segment_that_is_escaped_stays_a_name() -> None:
    # The engine decodes it after it has matched the route: a model of that name is unknown.
    assert TABLE.find(b"/v1/models/%2e%2e/pause") is Route.MODELS


def test_paths_of_the_operator_are_relayed_exactly_as_given() -> None:
    table = RouteTable(["/load", "/inference/v1/generate", "/ünï"])
    assert table.find(b"/load") is Route.EXTRA
    assert table.find(b"/inference/v1/generate") is Route.EXTRA
    assert table.find("/ünï".encode()) is Route.EXTRA
    assert table.find(b"/load/") is None
    assert table.find(b"/pause") is None


def test_paths_of_the_operator_change_no_known_kind_of_work() -> None:
    assert RouteTable(["/v1/chat/completions"]).find(b"/v1/chat/completions") is Route.CHAT


def test_every_kind_of_work_has_a_path() -> None:
    without_path = {Route.EXTRA, Route.UNKNOWN}
    assert set(LISTED.values()) == set(Route) - without_path
