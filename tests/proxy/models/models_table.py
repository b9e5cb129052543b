"""The table of docs/models.md.

python -m tests.proxy.models.models_table      writes it anew
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from proxy.models.preset_choice import SHIPPED
from proxy.models.preset_file import read_presets

PAGE = Path(__file__).parents[3] / "docs" / "models.md"
HEAD = (
    "| `MODEL_NAME` | Repository | GPUs need | Sets | Source |\n| --- | --- | --- | --- | --- |\n"
)


def rows() -> Iterator[str]:
    for preset in read_presets(SHIPPED).values():
        sets = " ".join(f"`{name}={text}`" for name, text in preset.engine_variables.items())
        sources = ", ".join(f"[{_kind(source)}]({source})" for source in preset.sources)
        needs = f"{preset.gpu_memory_gb:g} GB"
        yield f"| `{preset.name}` | `{preset.repository}` | {needs} | {sets} | {sources} |\n"


def page(before: str) -> str:
    """The page with a fresh table."""
    table = HEAD + "".join(rows())
    return re.sub(re.escape(HEAD) + r"(?:\|.*\n)*", lambda _: table, before)


def _kind(source: str) -> str:
    kinds = {"huggingface.co": "model card", "recipes": "vLLM's recipe", "docs.vllm": "vLLM's docs"}
    return next(kind for sign, kind in kinds.items() if sign in source)


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
