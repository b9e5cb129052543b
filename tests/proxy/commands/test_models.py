"""`python3 -m proxy models`: what fits here, what each sets."""

from __future__ import annotations

import json
import os
import re
from itertools import count
from pathlib import Path

import pytest

from proxy.__main__ import main
from proxy.commands import models
from proxy.commands.models import fitting, table
from proxy.machine.hardware import Gpu, Hardware
from proxy.models.preset_choice import load_settings
from proxy.preflight.sizing import Sizing
from proxy.settings.preset import Preset

GB = 10**9


def preset(needs: float | None, **variables: str) -> Preset:
    return Preset("mine", "models.toml", {"MODEL_NAME": "org/model", **variables}, needs)


def machine(*sizes_gb: float | None) -> Hardware:
    gpus = tuple(Gpu("Card", None if size is None else int(size * GB)) for size in sizes_gb)
    return Hardware(gpus, "580.95")


@pytest.mark.parametrize(
    ("needs", "parallel", "sizes", "fits"),
    [
        (24, "1", (24.1,), "yes"),
        (24, "1", (23.9,), "no"),
        (24, "1", (), "-"),
        (None, "1", (80,), "-"),
        (24, "1", (None,), "-"),
        (40, "1", (24, 24), "with TENSOR_PARALLEL_SIZE=2"),
        (128, "4", (150,), "with TENSOR_PARALLEL_SIZE=1"),
        (30, "2.0", (24, 16), "yes"),
    ],
)
def test_what_fits(
    needs: float | None, parallel: str, sizes: tuple[float | None, ...], fits: str
) -> None:
    one = preset(needs, TENSOR_PARALLEL_SIZE=parallel)
    assert fitting(one, machine(*sizes)) == (fits, "-")


def test_the_table_has_a_line_for_each_and_says_what_the_machine_is() -> None:
    first, blank, head, row = table([preset(24, MAX_MODEL_LEN="8192")], machine(80))
    assert first == "1 x Card, 75 GiB each, driver 580.95."
    assert blank == ""
    assert head.split() == ["MODEL_NAME", "NEEDS", "FITS", "CONTEXT", "REPOSITORY", "SETS"]
    assert row.split() == ["mine", "24", "GB", "yes", "8192", "org/model", "MAX_MODEL_LEN=8192"]


def test_without_a_gpu_it_says_so_and_tells_what_is_needed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "detect", lambda visible: Hardware())
    assert models.main({}) == 0
    out = capsys.readouterr().out
    assert out.startswith("No GPU here: --gpu-gb 24 shows what fits one of 24 GB.\n")
    row = next(line for line in out.splitlines() if line.startswith("qwen2-vl-7b "))
    assert row.split()[:6] == ["qwen2-vl-7b", "21", "GB", "-", "-", "Qwen/Qwen2-VL-7B-Instruct"]


def test_gpus_that_are_not_here_are_given_by_their_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert models.main({}, "--gpu-gb", "12") == 0
    out = capsys.readouterr().out
    assert out.startswith("As on 12 GB.\n")
    rows = {words[0]: words[3:6] for line in out.splitlines()[3:] if (words := line.split())}
    assert rows["qwen2.5-0.5b"][:2] == ["yes", "32768"]
    assert rows["phi-3.5-vision"] == ["with", "MAX_MODEL_LEN=4096", "4096"]
    assert rows["qwen2.5-7b"][:2] == ["no", "-"]
    assert models.main({}, "--gpu-gb", "24,24", "qwen3-vl-30b-a3b") == 0
    assert "; fits: no; As on 24 GB, 24 GB." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--gpu-gb", "big"), "--gpu-gb big: allowed are GB above 0, a number for each GPU"),
        (("--gpu-gb", "nan"), "--gpu-gb nan: allowed are GB above 0"),
        (("--gpus", "3"), "models: unrecognized arguments: --gpus; allowed are NAME and"),
        (("--gpu-gb",), "expected one argument; allowed are NAME and --gpu-gb 24"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    arguments: tuple[str, ...], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", *arguments]) == 2
    err = capsys.readouterr().err
    assert complaint in err
    assert err.count("\n") == 1


def test_one_of_them_is_shown_whole_as_an_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "detect", lambda visible: machine(80))
    assert models.main({}, "qwen3-8b") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "MODEL_NAME=Qwen/Qwen3-8B" in lines
    assert "TOOL_CALL_PARSER=hermes" in lines
    assert lines[1].startswith("# needs 20 GB; fits: yes, requests of up to 40960 tokens; 1 x Card")
    assert any(line.startswith("# source: https://") for line in lines)


def test_a_wrong_name_or_file_is_told_and_exits_with_2(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["models", "qwen3-8"]) == 2
    assert capsys.readouterr().err.endswith("Did you mean qwen3-8b?\n")
    missing = str(tmp_path / "none.toml")
    monkeypatch.setenv("MODELS_FILE", missing)
    assert main(["models"]) == 2
    assert capsys.readouterr().err == f"MODELS_FILE={missing!r}: there is no such file\n"


def test_below_it_stands_what_is_here_of_each_model_and_what_it_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(models, "detect", lambda visible: machine(80))
    cached = tmp_path / "hf/hub/models--org--cached"
    snapshot = cached / "snapshots" / ("a" * 40)
    for folder in (tmp_path / "mine", snapshot):
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        with (folder / "model.safetensors").open("wb") as weights:
            weights.truncate(2 * GB)
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("a" * 40)
    presets = {
        "chat": {"repository": str(tmp_path / "mine"), "served_names": ["chat", "gpt-4o"]},
        "embed": {"repository": "org/gone", "engine": {"GPU_MEMORY_UTIL": 0.25}},
    }
    environ = {
        "PATH": os.defpath,
        "HF_HOME": str(tmp_path / "hf"),
        "MODELS_INLINE": json.dumps(presets),
        "MODEL_NAME": "chat,embed,org/cached,demo",
    }
    chat = load_settings(environ)
    Sizing(chat, str(tmp_path / "mine"), machine(80)).keep(12 * 1024**3, 0)
    assert models.main(environ) == 0
    shown = capsys.readouterr().out.partition("\nThe models of MODEL_NAME:\n\n")[2].splitlines()
    columns = [[cell.strip() for cell in re.split(r"  +", line)] for line in shown]
    assert columns == [
        ["MODEL", "FILES", "MEMORY", "GPUS", "SERVED AS"],
        ["chat", "2.0 GB in a folder", "12.0 GiB, measured", "0", "chat gpt-4o"],
        ["embed", "not here", "18.6 GiB, declared", "0", "embed org/gone"],
        ["org/cached", "2.0 GB in the cache", "never measured", "0", "org/cached"],
        ["demo", "made at the start", "never measured", "0", "demo"],
    ]


@pytest.mark.parametrize("looks", [0, 1])
def test_a_file_that_goes_while_it_is_looked_at_does_not_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, looks: int
) -> None:
    for name in ("config.json", "model.safetensors"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2 * GB)
    left = count(looks, -1)
    stat = Path.stat

    def stat_of_what_goes(path: Path, **options: bool) -> os.stat_result:
        if path.name == "model.safetensors" and next(left) <= 0:
            raise FileNotFoundError
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", stat_of_what_goes)
    assert models._size(tmp_path) == f"{2 * (1 + looks):.1f} GB"


def test_what_is_wrong_with_the_models_is_told_below_the_presets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_NAME", "demo,demo")
    assert main(["models"]) == 2
    told = capsys.readouterr()
    assert "qwen3-8b" in told.out
    assert told.err == "MODEL_NAME: demo stands there twice; allowed is each name once\n"
    monkeypatch.setenv("MODEL_NAME", "demo")
    monkeypatch.setenv("UPSTREAM_URL", "http://127.0.0.1:9")
    assert main(["models"]) == 0
    assert "The models of MODEL_NAME" not in capsys.readouterr().out
