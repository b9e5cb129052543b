"""docs/models.md: its table is the shipped file, and its example is a file."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from proxy.models.preset_file import read_presets
from proxy.settings import Settings
from proxy.settings.preset import Preset
from proxy.vllm.command import engine_command
from tests.proxy.models.models_table import PAGE, page

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_table_is_that_of_the_shipped_file() -> None:
    assert page(TEXT) == TEXT, "run .venv/bin/python -m tests.proxy.models.models_table"


def test_the_examples_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    presets: dict[str, Preset] = {}
    for part in TEXT.split("```toml\n")[1:]:
        file.write_text(part.split("```")[0])
        presets |= read_presets(file)
    assert presets["support"].variables["SERVED_MODEL_NAME"] == "support,gpt-4o"


@pytest.mark.parametrize("has_gpu", [True, False])
@pytest.mark.parametrize("gpus", [1, 2])
def test_the_defaults_are_what_the_engine_gets(gpus: int, has_gpu: bool) -> None:
    section = TEXT.split("## Defaults, and why\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", section, re.MULTILINE))
    settings = Settings.load({"TENSOR_PARALLEL_SIZE": str(gpus)})
    command = engine_command(settings, model_path="/m", served_names=(), has_gpu=has_gpu)
    argv = list(command.argv)
    limits = json.loads(argv[argv.index("--limit-mm-per-prompt") + 1])
    actual = {
        "IMAGE_LIMIT": f"`{limits['image']}`",
        "VIDEO_LIMIT": f"`{limits['video']}`",
        "AUDIO_LIMIT": f"`{limits['audio']}`",
        "MAX_MODEL_LEN": "unset" if "--max-model-len" not in argv else "set",
        "MAX_NUM_SEQS": "unset" if "--max-num-seqs" not in argv else "set",
    }
    assert rows == rows | actual
    assert rows["ENABLE_CHUNKED_PREFILL"] == "on, with a GPU"
    assert ("--enable-chunked-prefill" in argv) == has_gpu
    assert rows["MM_ENCODER_TP_MODE"] == "`data`, with several GPUs"
    assert (("--mm-encoder-tp-mode", "data") in pairwise(argv)) == (gpus > 1)
    allocator, condition = rows["PYTORCH_ALLOC_CONF"].split(", ")
    assert condition == "with a GPU"
    expected = allocator.strip("`") if has_gpu else None
    assert command.environ.get("PYTORCH_ALLOC_CONF") == expected
