"""A model that starts, says that it is healthy, and kills real vLLM with its first request."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.models.demo import CHAT_TEMPLATE, build_tokenizer, tokenizer_config
from tests.engine.conftest import READY_SECONDS
from tests.engine.service import Service

pytestmark = pytest.mark.engine


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A text model with a head size of 16, which vLLM's attention on CPUs finds out about late."""
    folder = tmp_path / "breaks"
    folder.mkdir()
    tokenizer = build_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "max_position_embeddings": 2048,
        "vocab_size": tokenizer.get_vocab_size(),
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config()))
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


def test_it_never_becomes_ready(tmp_path: Path, model: Path) -> None:
    with Service(
        tmp_path,
        MODEL_NAME=str(model),
        LOAD_FORMAT="dummy",
        MAX_MODEL_LEN="1024",
        ENFORCE_EAGER="true",
        VLLM_CPU_KVCACHE_SPACE="1",
        MAX_RESTARTS="0",
    ) as service:
        service.wait_for("failed", READY_SECONDS)
        health = service.health()
        assert health["status"] == "failed"
        assert health["reason"]
        assert service.client.get("/ping").status_code == 503
        phases = service.phases_until("failed")
        assert "warming" in phases
        assert "ready" not in phases
