"""The tables of docs/models.md, made from the shipped presets.

python -m tests.proxy.models.models_table            writes them anew
python -m tests.proxy.models.models_table --check    exits with 1 where they are out of date
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from proxy.models.fit import fit
from proxy.models.preset_choice import SHIPPED
from proxy.models.preset_file import read_presets
from proxy.settings.preset import Preset

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
CARDS_GB = (6, 8, 12, 16, 24, 40, 48, 80, 141)
PRESETS_HEAD = (
    "| `MODEL_NAME` | Repository | GPUs need | Sets | Source |\n| --- | --- | --- | --- | --- |\n"
)
CARDS_HEAD = (
    f"| `MODEL_NAME` | {' | '.join(f'{size} GB' for size in CARDS_GB)} |\n"
    f"| --- |{' ---: |' * len(CARDS_GB)}\n"
)
_KINDS = {"huggingface.co": "model card", "recipes": "vLLM's recipe", "docs.vllm": "vLLM's docs"}


def presets_rows() -> Iterator[str]:
    for preset in read_presets(SHIPPED).values():
        sets = " ".join(f"`{name}={text}`" for name, text in preset.engine_variables.items())
        sources = ", ".join(
            f"[{next(kind for sign, kind in _KINDS.items() if sign in source)}]({source})"
            for source in preset.sources
        )
        needs = f"{preset.gpu_memory_gb:g} GB"
        yield f"| `{preset.name}` | `{preset.repository}` | {needs} | {sets} | {sources} |\n"


def cards_rows() -> Iterator[str]:
    for preset in read_presets(SHIPPED).values():
        yield f"| `{preset.name}` | {' | '.join(cell(preset, size) for size in CARDS_GB)} |\n"


def cell(preset: Preset, card_gb: float) -> str:
    """The longest request on one such card, as MAX_MODEL_LEN takes it."""
    on_card = fit(preset, [card_gb])
    if on_card is None:
        return "-"
    return f"{on_card.tokens // 1024}K" if on_card.tokens else "yes"


def page(before: str) -> str:
    """The page with fresh tables."""
    for head, rows in ((PRESETS_HEAD, presets_rows()), (CARDS_HEAD, cards_rows())):
        above, below = before.split(head)
        before = above + head + "".join(rows) + re.sub(r"\A(?:\|.*\n)*", "", below)
    return before


if __name__ == "__main__":
    text = PAGE.read_text()
    if "--check" in sys.argv[1:]:
        sys.exit(page(text) != text)
    PAGE.write_text(page(text))
