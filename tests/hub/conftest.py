"""Models to download, and a hub that serves them."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fake_hub import FakeHub, running_hub

SMALL = "tiny/model"
LARGE = "tiny/large"
# hub writes to the disk in pieces of 10 MiB: less is not seen before the file is finished.
SHARD_BYTES = 22 * 1024 * 1024


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two repositories; the second has shards large enough to be cut in the middle."""
    noise = random.Random(0)
    root = tmp_path_factory.mktemp("models")
    config = {"config.json": b'{"model_type": "tiny"}', "tokenizer.json": b"{}" * 500}
    _write(
        root / SMALL,
        config
        | {
            "model.safetensors": noise.randbytes(300_000),
            "processor/preprocessor_config.json": b"{}",
            "pytorch_model.bin": b"the same again",
            "README.md": b"# Tiny",
        },
    )
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {f"layer{i}": name for i, name in enumerate(names)}}
    _write(
        root / LARGE,
        config
        | {
            names[0]: noise.randbytes(400_000),
            names[1]: noise.randbytes(SHARD_BYTES),
            "model.safetensors.index.json": json.dumps(index).encode(),
        },
    )
    return root


@pytest.fixture
def hub(models: Path) -> Iterator[FakeHub]:
    with running_hub(models) as hub:
        yield hub


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "hf"
