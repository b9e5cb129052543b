"""What is used of libraries is there, by its name: a version without it fails here, and says so."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import fields
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

import pytest

from proxy.models.hub_cache import RepoCache

ROOT = Path(__file__).parents[1]
LIBRARIES = {
    name.replace("-", "_")
    for name in re.findall(r"^([\w-]+)>=", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
}
# The sidecar goes on where they fail, so that no other test need notice.
FOR_THE_CACHE = {
    "get_cached_repo_tree": {"cache_dir", "revision"},
    "hf_hub_download": {"cache_dir", "revision"},
    "snapshot_download": {"allow_patterns", "cache_dir", "local_files_only", "revision"},
}


def imported() -> list[tuple[str, str]]:
    """Module and name of all that is imported of a library, by functions too."""
    trees = [ast.parse(path.read_text()) for path in (ROOT / "proxy").rglob("*.py")]
    found = {
        (node.module, each.name)
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for each in node.names
    }
    return sorted(pair for pair in found if pair[0].partition(".")[0] in LIBRARIES)


def test_a_library_has_what_is_imported_of_it() -> None:
    assert {module.partition(".")[0] for module, _ in imported()} >= {"huggingface_hub", "aiohttp"}
    missing = [pair for pair in imported() if not hasattr(import_module(pair[0]), pair[1])]
    assert missing == []


@pytest.mark.parametrize("name", FOR_THE_CACHE)
def test_a_hub_takes_what_the_cache_is_asked_by(name: str) -> None:
    parameters = inspect.signature(getattr(import_module("huggingface_hub"), name)).parameters
    text = f"huggingface_hub {version('huggingface_hub')}: {name} lacks a parameter"
    assert FOR_THE_CACHE[name] <= set(parameters), text


@pytest.mark.parametrize("name", ["siblings", "sha"])
def test_what_a_hub_says_of_a_model_has_what_is_used_of_it(name: str) -> None:
    model = import_module("huggingface_hub.hf_api").ModelInfo(id="org/name")
    assert hasattr(model, name), f"huggingface_hub {version('huggingface_hub')}: no {name}"


@pytest.mark.parametrize("name", ["filename", "local_path", "file_size", "is_cached"])
def test_a_dry_run_of_a_download_has_what_is_used_of_it(name: str) -> None:
    file = import_module("huggingface_hub.file_download").DryRunFileInfo
    text = f"huggingface_hub {version('huggingface_hub')}: a DryRunFileInfo has no {name}"
    assert name in {each.name for each in fields(file)}, text


def test_the_cache_of_a_hub_has_the_names_that_are_used_of_it(tmp_path: Path) -> None:
    """Private to huggingface_hub: the folder of a repository, its blobs, and those not whole."""
    hub = import_module("huggingface_hub.file_download")
    ours = RepoCache(tmp_path, "org/name")
    assert hub.repo_folder_name(repo_id="org/name", repo_type="model") == ours.folder.name
    (ours.folder / "refs").mkdir(parents=True)
    ours.point_ref("main", "0" * 40)
    snapshot = ours.folder / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    found = hub.try_to_load_from_cache("org/name", "config.json", cache_dir=tmp_path)
    assert found == str(snapshot / "config.json")
    assert ours.find_snapshot("main") == snapshot


def test_unfinished_files_of_a_hub_have_the_names_that_are_looked_for() -> None:
    """What is written under another name would never be removed, nor counted."""
    source = inspect.getsource(import_module("huggingface_hub.file_download"))
    text = f"huggingface_hub {version('huggingface_hub')} names its unfinished files otherwise"
    assert '{uuid.uuid4().hex[:8]}.incomplete"' in source, text
