"""What the processes that bring a model here are given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.errors import EngineFailure
from proxy.models.fetch import child_environ, data_directory, look_up, model_cache
from proxy.settings import Settings

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("given", ["", "theirs"])
def test_ours_is_found_first_and_then_what_the_operator_has_put_there(
    tmp_path: Path, given: str
) -> None:
    (tmp_path / "proxy").mkdir()
    (tmp_path / "proxy/__init__.py").write_text("raise RuntimeError('not ours')")
    (tmp_path / "extra.py").write_text("")
    ours = {"PATH": os.defpath} | ({"PYTHONPATH": str(tmp_path)} if given else {})
    environ = child_environ(ours)
    code = "import proxy.errors as ours, importlib.util as util; "
    code += "print(ours.__file__, util.find_spec('extra'))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, cwd="/", capture_output=True, text=True
    )
    place, _, extra = done.stdout.partition(" ")
    assert place == str(ROOT / "proxy/errors.py"), done.stderr
    assert ("extra.py" in extra) is bool(given)
    assert environ["PATH"] == os.defpath


@pytest.mark.parametrize(
    ("environ", "cache", "data"),
    [
        ({}, "$HOME/.cache/huggingface", "$HOME/.cache/sidecar"),
        ({"XDG_CACHE_HOME": "/xdg"}, "/xdg/huggingface", "/xdg/sidecar"),
        ({"XDG_CACHE_HOME": "/xdg", "HF_HOME": "/a/hf\n"}, "/a/hf", "/a/sidecar"),
        ({"HF_HOME": "$HOME/hf"}, "$HOME/hf", "$HOME/sidecar"),
        ({"HF_HOME": "/a/hf", "HF_HUB_CACHE": "/b/hub\n"}, "/b/hub", "/a/sidecar"),
        ({"HF_HOME": "/a/hf", "HUGGINGFACE_HUB_CACHE": "~/hub"}, "$HOME/hub", "/a/sidecar"),
    ],
)
def test_the_cache_is_where_huggingface_hub_has_it(
    environ: dict[str, str], cache: str, data: str
) -> None:
    settings = Settings.load(environ)
    assert model_cache(settings) == Path(os.path.expandvars(cache))
    assert data_directory(settings) == Path(os.path.expandvars(data))
    code = "from huggingface_hub import constants; print(constants.HF_HUB_CACHE)"
    ours = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **settings.environ}
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, env=ours, capture_output=True, text=True, check=True).stdout
    assert Path(told.strip()) in (Path(os.path.expandvars(cache), part) for part in ("", "hub"))


async def test_a_download_that_cannot_begin_says_why() -> None:
    environ = {"PATH": os.environ["PATH"], "HF_HUB_DOWNLOAD_TIMEOUT": "30s"}
    with pytest.raises(EngineFailure, match=r"\(code 1\): ValueError: .*'30s'"):
        await look_up(Settings.load(environ), "org/name", lambda line: None)
