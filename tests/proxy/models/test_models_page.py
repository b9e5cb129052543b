"""docs/models.md: its table is the shipped file, and its example is a file."""

from __future__ import annotations

from pathlib import Path

from proxy.models.preset_file import read_presets
from tests.proxy.models.models_table import PAGE, page

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_table_is_that_of_the_shipped_file() -> None:
    assert page(TEXT) == TEXT, "run python -m tests.proxy.models.models_table"


def test_the_example_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(TEXT.split("```toml\n")[1].split("```")[0])
    (support,) = read_presets(file).values()
    assert support.variables["SERVED_MODEL_NAME"] == "support,gpt-4o"
