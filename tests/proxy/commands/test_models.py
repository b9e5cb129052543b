"""`python3 -m proxy models`: what fits here, what each sets."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.commands import models
from proxy.commands.models import fits, table
from proxy.machine.hardware import Gpu, Hardware
from proxy.settings.preset import Preset

GB = 10**9


def preset(needs: float | None, **variables: str) -> Preset:
    return Preset("mine", "models.toml", {"MODEL_NAME": "org/model", **variables}, needs)


def machine(*sizes_gb: float | None) -> Hardware:
    gpus = tuple(Gpu("Card", None if size is None else int(size * GB)) for size in sizes_gb)
    return Hardware(gpus, "580.95")


@pytest.mark.parametrize(
    ("needs", "parallel", "sizes", "said"),
    [
        (24, "1", (24.1,), "yes"),
        (24, "1", (23.9,), "no"),
        (24, "1", (), "-"),
        (None, "1", (80,), "-"),
        (24, "1", (None,), "-"),
        (40, "1", (24, 24), "with TENSOR_PARALLEL_SIZE=2"),
        (90, "1", (24, 24, 24), "no"),
        (90, "1", (24, 24, 24, 24), "with TENSOR_PARALLEL_SIZE=4"),
        (128, "4", (40, 40, 40, 40), "yes"),
        (128, "4", (150,), "with TENSOR_PARALLEL_SIZE=1"),
        (40, "1", (24, 16), "no"),
        (30, "1", (24, 16), "with TENSOR_PARALLEL_SIZE=2"),
        (30, "2.0", (24, 16), "yes"),
    ],
)
def test_what_fits(
    needs: float | None, parallel: str, sizes: tuple[float | None, ...], said: str
) -> None:
    one = preset(needs, TENSOR_PARALLEL_SIZE=parallel)
    assert fits(one, machine(*sizes)) == said


def test_the_table_has_a_line_for_each_and_says_what_the_machine_is() -> None:
    first, blank, head, row = table([preset(24, MAX_MODEL_LEN="8192")], machine(80))
    assert first == "1 x Card, 75 GiB each, driver 580.95."
    assert blank == ""
    assert head.split() == ["MODEL_NAME", "NEEDS", "FITS", "REPOSITORY", "SETS"]
    assert row.split() == ["mine", "24", "GB", "yes", "org/model", "MAX_MODEL_LEN=8192"]


def test_without_a_gpu_it_says_so_and_tells_what_is_needed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "detect", Hardware)
    assert models.main({}) == 0
    out = capsys.readouterr().out
    assert out.startswith("No GPU here: what each model needs is told, not what fits.\n")
    assert "qwen2-vl-7b       21 GB   -     Qwen/Qwen2-VL-7B-Instruct" in out


def test_one_of_them_is_shown_whole_as_an_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "detect", lambda: machine(80))
    assert models.main({}, "qwen3-8b") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "MODEL_NAME=Qwen/Qwen3-8B" in lines
    assert "TOOL_CALL_PARSER=hermes" in lines
    assert lines[1].startswith("# needs 20 GB; here: yes; 1 x Card")
    assert any(line.startswith("# source: https://") for line in lines)


def test_a_wrong_name_or_file_is_told_and_exits_with_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert models.main({}, "qwen3-8") == 2
    assert capsys.readouterr().err.endswith("Did you mean qwen3-8b?\n")
    missing = str(tmp_path / "none.toml")
    assert models.main({"MODELS_FILE": missing}) == 2
    assert capsys.readouterr().err == f"MODELS_FILE={missing!r}: there is no such file\n"
