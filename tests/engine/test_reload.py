"""A file of presets that is read again while real vLLM serves what stood in it before."""

from __future__ import annotations

from pathlib import Path

import httpx
import openai
import pytest

from tests.engine.conftest import READY_SECONDS
from tests.engine.service import Service, below, command_line

pytestmark = pytest.mark.engine

TOKENS = 200
PRESET = (
    '[{name}]\nrepository = "demo-text"\nserved_names = ["{name}"]\nengine.MAX_MODEL_LEN = {n}\n'
)


def engines(service: Service) -> dict[str, int]:
    """Process ids by the name that each serves."""
    lines = {each.pid: command_line(each.pid).split() for each in below(service.process.pid)}
    return {
        words[words.index("--served-model-name") + 1]: pid
        for pid, words in lines.items()
        if "--served-model-name" in words and "guard.py" not in " ".join(words)
    }


def test_a_changed_model_finishes_its_stream_and_comes_back_as_its_preset_says(
    tmp_path: Path,
) -> None:
    file = tmp_path / "models.toml"
    file.write_text(PRESET.format(name="stays", n=512) + PRESET.format(name="changes", n=512))
    environ = {"MODEL_NAME": "*", "MODELS_FILE": str(file), "MAX_NUM_SEQS": "8"}
    with Service(tmp_path, **environ) as service:
        service.wait_for("ready", READY_SECONDS)
        url, patience = f"{service.url}/v1", 2 * READY_SECONDS
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0, timeout=patience) as client:

            def answers(model: str) -> str:
                return client.completions.create(model=model, prompt="Hello", max_tokens=8).model

            assert [answers(name) for name in ("stays", "changes")] == ["stays", "changes"]
            before = engines(service)
            chunks = client.completions.create(
                model="changes",
                prompt="Hello",
                max_tokens=TOKENS,
                extra_body={"ignore_eos": True},
                stream=True,
            )
            next(iter(chunks))
            file.write_text(
                PRESET.format(name="stays", n=512) + PRESET.format(name="changes", n=256)
            )
            answer = httpx.post(f"{service.url}/models/reload", timeout=READY_SECONDS)
            assert (answer.status_code, answer.json()["changed"]) == (202, ["changes"])
            reasons = [each.choices[0].finish_reason for each in chunks if each.choices]
            assert reasons[-1] == "length"
            assert answers("changes") == "changes"
            lengths = {each.id: each.model_dump()["max_model_len"] for each in client.models.list()}
            assert lengths == {"stays": 512, "changes": 256}
            after = engines(service)
            assert after["stays"] == before["stays"]
            assert after["changes"] != before["changes"]
