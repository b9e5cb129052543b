"""What is found out before a byte of the weights is fetched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from proxy.errors import Cause
from proxy.models.events import Failed, Plan
from tests.fake_hub import FakeHub, Fault, Kind
from tests.hub.child import download
from tests.hub.conftest import SMALL

pytestmark = pytest.mark.hub

FETCHES = "GET /cdn/*"


@pytest.fixture
def llama(hub: FakeHub, tmp_path: Path) -> str:
    """A repository whose config.json says something."""
    hub.root = tmp_path / "models"
    folder = hub.root / "tiny/llama"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "model.safetensors").write_bytes(bytes(5000))
    (folder / "tokenizer.json").write_text("{}")
    return "tiny/llama"


def test_a_check_tells_what_a_download_would_and_fetches_no_weights(
    hub: FakeHub, home: Path, llama: str
) -> None:
    outcome = download(hub.url, home, llama, "--check")
    (plan,) = outcome.events
    assert isinstance(plan, Plan)
    assert outcome.code == 0
    assert plan.weights_bytes == 5000
    assert plan.bytes_to_fetch == plan.bytes_total > 5000
    assert plan.config is not None
    assert plan.config.architectures == ("LlamaForCausalLM",)
    assert hub.count(FETCHES) == 0
    assert hub.count("GET */resolve/*") == hub.count("GET */config.json") == 1


def test_a_check_counts_only_what_the_cache_does_not_hold(
    hub: FakeHub, home: Path, llama: str
) -> None:
    download(hub.url, home, llama)
    asked = len(hub.requests)
    plan = download(hub.url, home, llama, "--check").one(Plan)
    assert plan.bytes_to_fetch == 0
    assert plan.config is not None
    assert len(hub.requests) - asked <= 2, "a warm start asks for nothing else"


def test_a_download_says_what_the_model_is_before_it_fetches_it(
    hub: FakeHub, home: Path, llama: str
) -> None:
    outcome = download(hub.url, home, llama)
    assert outcome.one(Plan).config is not None
    names = [request.path for request in hub.requests if request.method == "GET"]
    files = [Path(name).name for name in names if "/resolve/" in name or "/cdn/" in name]
    assert files[0] == "config.json"
    assert sorted(files) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_a_config_that_cannot_be_had_is_not_judged(hub: FakeHub, home: Path) -> None:
    hub.faults.append(Fault(Kind.GATED, "GET */config.json"))
    outcome = download(hub.url, home, SMALL, "--check")
    assert outcome.one(Plan).config is None
    assert outcome.code == 0


def test_a_repository_without_a_model_is_reported(hub: FakeHub, home: Path, tmp_path: Path) -> None:
    hub.root = tmp_path / "models"
    (hub.root / "tiny/words").mkdir(parents=True)
    (hub.root / "tiny/words/README.md").write_text("# No model")
    failed = download(hub.url, home, "tiny/words", "--check").one(Failed)
    assert failed.cause is Cause.UNSUPPORTED_MODEL
    assert failed.message == "tiny/words holds no file that vLLM could load"
