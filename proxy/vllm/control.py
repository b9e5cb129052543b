"""Paths by which whoever reaches a vLLM controls it: stops it, or changes its weights."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

# What vLLM serves in dev mode (`entrypoints/serve/dev`, `entrypoints/rl`), and what else changes an
# engine for all of its clients. A test compares it with the routers of the vLLM that is installed.
_NAMES = frozenset(
    {
        "abort_requests",
        "collective_rpc",
        "fault_tolerance",
        "finish_weight_update",
        "get_world_size",
        "init_weight_transfer_engine",
        "is_paused",
        "is_scaling_elastic_ep",
        "is_sleeping",
        "pause",
        "release_kv_cache_memory",
        "reset_encoder_cache",
        "reset_mm_cache",
        "reset_prefix_cache",
        "resume",
        "scale_elastic_ep",
        "server_info",
        "shutdown_weight_transfer_engine",
        "sleep",
        "start_draft_weight_update",
        "start_profile",
        "start_weight_update",
        "stop_profile",
        "update_weight_version",
        "update_weights",
        "wake_up",
        "weight_checker",
        "weight_info",
    }
)


def is_control_path(path: str) -> bool:
    """Whether a path would let a client control the engine, however a server reads it."""
    decoded = unquote_to_bytes(path).decode("utf-8", "replace")
    words = re.split(r"[/\\;?#]+", decoded.lower())
    return not _NAMES.isdisjoint(words)
