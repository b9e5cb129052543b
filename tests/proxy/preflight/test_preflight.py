"""What is found out before minutes are spent."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections import namedtuple
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.errors import Cause, EngineFailure
from proxy.machine.checks import check_disk, check_executable, check_port
from proxy.machine.hardware import Hardware
from proxy.models.kind import ModelKind, check_local_model, kind_of, repository_of
from proxy.preflight.sizing import Sizing
from proxy.settings import Settings

NO_SETTINGS = Settings.load({})
DiskUsage = namedtuple("DiskUsage", "total used free")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("demo", ModelKind.DEMO),
        ("Qwen/Qwen2-VL-7B-Instruct", ModelKind.HUB),
        ("gpt2", ModelKind.HUB),
        ("/models/mine", ModelKind.LOCAL),
        ("./mine", ModelKind.LOCAL),
        ("~/mine", ModelKind.LOCAL),
        ("s3://bucket/model", ModelKind.OTHER),
        ("S3://bucket", ModelKind.OTHER),
        ("gs://bucket/folder/model/", ModelKind.OTHER),
        ("unsloth/Model-GGUF:Q4_K_M", ModelKind.OTHER),
        ("unsloth/Model-GGUF:UD-Q4_K_XL", ModelKind.OTHER),
        ("unsloth/Model-GGUF:bf16", ModelKind.OTHER),
    ],
)
def test_a_models_name_tells_where_its_files_come_from(name: str, kind: ModelKind) -> None:
    assert kind_of(name) is kind


@pytest.mark.parametrize(
    ("name", "revision", "repository"),
    [
        ("Qwen/Qwen3-0.6B", None, "Qwen/Qwen3-0.6B"),
        ("https://huggingface.co/Qwen/Qwen3-0.6B", None, "Qwen/Qwen3-0.6B"),
        ("http://www.huggingface.co/Qwen/Qwen3-0.6B/", None, "Qwen/Qwen3-0.6B"),
        ("https://hf.co/Qwen/Qwen3-0.6B?library=vllm", None, "Qwen/Qwen3-0.6B"),
        ("hf://Qwen/Qwen3-0.6B", None, "Qwen/Qwen3-0.6B"),
        ("https://huggingface.co/Qwen/Qwen3-0.6B/tree/main", None, "Qwen/Qwen3-0.6B"),
        ("https://huggingface.co/Qwen/Qwen3-0.6B/tree/v1", "v1", "Qwen/Qwen3-0.6B"),
        ("https://huggingface.co/Qwen/Qwen3-0.6B/blob/main/config.json", None, "Qwen/Qwen3-0.6B"),
        ("hf.co/Qwen/Qwen3-0.6B-GGUF:Q8_0", None, "Qwen/Qwen3-0.6B-GGUF:Q8_0"),
        ("s3://bucket/model", None, "s3://bucket/model"),
        ("/models/mine", None, "/models/mine"),
    ],
)
def test_the_address_of_a_models_page_means_its_repository(
    name: str, revision: str | None, repository: str
) -> None:
    assert repository_of(name, revision) == repository


def test_the_page_of_a_revision_is_refused_with_the_two_variables_that_say_the_same() -> None:
    with pytest.raises(EngineFailure) as failed:
        repository_of("https://huggingface.co/Qwen/Qwen3-0.6B/tree/v1", None)
    assert failed.value.permanent
    assert failed.value.remedy == "Set MODEL_NAME=Qwen/Qwen3-0.6B and MODEL_REVISION=v1."


@pytest.mark.parametrize(
    "name",
    ["HTTPS://example.com/m", "https://huggingface.co/datasets/a/b", "https://hf.co/Qwen/Q:latest"],
)
def test_any_other_address_of_the_web_is_no_model(name: str) -> None:
    with pytest.raises(EngineFailure, match="is an address") as failed:
        kind_of(repository_of(name, None))
    assert failed.value.permanent


def test_a_folder_beats_a_repository_of_the_same_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert kind_of("org/model") is ModelKind.HUB
    (tmp_path / "org/model").mkdir(parents=True)
    assert kind_of("org/model") is ModelKind.LOCAL


@pytest.mark.parametrize(
    "name",
    [
        "a/b/c",
        "a b",
        "-x",
        "ünï|code",
        "!" * 300,
        # Addresses that other tools know, and vLLM does not.
        "ollama://qwen3",
        "qwen3:8b",
        "hf:Qwen/Qwen3-0.6B",
        "git@github.com:org/model",
        "file:///models/mine",
        "modelscope://org/model",
        "s3:/bucket/model",
        "s3://",
        "s3://bucket/my model",
        "org/model:latest",
        "org/model@main",
        "localhost:8000",
        "C:\\models\\mine",
    ],
)
def test_a_name_that_can_be_nothing_fails_at_once_and_for_good(name: str) -> None:
    with pytest.raises(EngineFailure) as failed:
        kind_of(name)
    assert failed.value.cause is Cause.MODEL_NOT_FOUND
    assert failed.value.permanent
    assert repr(name) in failed.value.message
    assert "Set MODEL_NAME to organisation/name" in failed.value.remedy
    assert "s3://, gs:// or az://" in failed.value.remedy


@pytest.mark.parametrize("file", ["config.json", "params.json"])
def test_a_local_folder_with_a_model_is_served_as_it_is(tmp_path: Path, file: str) -> None:
    (tmp_path / file).touch()
    assert check_local_model(str(tmp_path), NO_SETTINGS) == tmp_path


def test_a_single_gguf_file_is_served_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.touch()
    assert check_local_model(str(file), NO_SETTINGS) == file


def test_a_local_model_is_found_below_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "config.json").touch()
    assert check_local_model("~", NO_SETTINGS) == tmp_path


@pytest.mark.parametrize(
    ("files", "name", "says"),
    [
        ([], "missing", "does not exist"),
        ([], "a" * 300, "cannot be looked at: File name too long"),
        (["model.bin"], "model.bin", "does not exist"),
        (["README.md"], "", "no config.json"),
    ],
)
def test_a_local_path_without_a_model_says_what_is_missing(
    tmp_path: Path, files: list[str], name: str, says: str
) -> None:
    for file in files:
        (tmp_path / file).touch()
    with pytest.raises(EngineFailure, match=says) as failed:
        check_local_model(str(tmp_path / name), NO_SETTINGS)
    assert failed.value.cause is Cause.MODEL_NOT_FOUND
    assert failed.value.permanent
    assert str(tmp_path) in failed.value.message


def test_a_copy_that_was_not_finished_fails_before_minutes_are_spent(tmp_path: Path) -> None:
    shards = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
    index = {"weight_map": {f"layer.{shard}": shard for shard in shards}}
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    # None of them: the weights may be in another format, which the index says nothing of.
    assert check_local_model(str(tmp_path), NO_SETTINGS) == tmp_path
    (tmp_path / shards[0]).touch()
    for settings in (NO_SETTINGS, Settings.load({"LOAD_FORMAT": "auto"})):
        with pytest.raises(EngineFailure, match=rf"complete: {shards[1]} and 1 more") as failed:
            check_local_model(str(tmp_path), settings)
        assert failed.value.cause is Cause.CORRUPT_FILE
        assert failed.value.permanent
    # Whoever says how weights are loaded knows which are needed.
    dummy = Settings.load({"LOAD_FORMAT": "dummy"})
    assert check_local_model(str(tmp_path), dummy) == tmp_path
    for shard in shards:
        (tmp_path / shard).touch()
    assert check_local_model(str(tmp_path), NO_SETTINGS) == tmp_path


@pytest.mark.parametrize("spoiled", ["", "[]", '{"weight_map": 1}'])
def test_a_spoiled_index_is_vllms_to_judge(tmp_path: Path, spoiled: str) -> None:
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors.index.json").write_text(spoiled)
    assert check_local_model(str(tmp_path), NO_SETTINGS) == tmp_path


def test_a_home_folder_that_nobody_has_is_a_folder_that_does_not_exist() -> None:
    with pytest.raises(EngineFailure, match="~nobody-of-that-name/m does not exist"):
        check_local_model("~nobody-of-that-name/m", NO_SETTINGS)


def test_the_engines_command_is_found_beside_the_python_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    (tmp_path / "vllm").touch(mode=0o755)
    assert check_executable("vllm") == str(tmp_path / "vllm")


def test_the_engines_command_is_found_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/nowhere/python3")
    with pytest.raises(EngineFailure, match="neither on the PATH nor beside") as failed:
        check_executable("vllm")
    assert failed.value.permanent
    (tmp_path / "vllm").touch(mode=0o755)
    assert check_executable("vllm") == str(tmp_path / "vllm")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def test_a_port_that_is_taken_is_named_and_worth_another_try(taken_port: int) -> None:
    with pytest.raises(EngineFailure, match=str(taken_port)) as failed:
        check_port(taken_port)
    assert failed.value.cause is Cause.PORT_IN_USE
    assert not failed.value.permanent
    assert "UPSTREAM_PORT" in failed.value.remedy


def test_a_free_port_stays_free() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port: int = server.getsockname()[1]
    check_port(port)
    check_port(port)
    socket.create_server(("127.0.0.1", port)).close()


def test_the_disk_is_that_of_the_nearest_folder_and_a_full_one_stops_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in the cache can be served from it. A download finds out what it lacks."""
    asked: list[Path] = []

    def disk_usage(path: Path) -> DiskUsage:
        asked.append(path)
        return DiskUsage(0, 0, 0)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    assert check_disk(tmp_path / "not/there/yet") == 0
    assert asked == [tmp_path]


def test_a_cache_that_cannot_be_looked_at_says_why_and_is_not_tried_again(tmp_path: Path) -> None:
    with pytest.raises(EngineFailure, match="File name too long") as failed:
        check_disk(tmp_path / ("a" * 300))
    assert failed.value.cause is Cause.CACHE_NOT_WRITABLE
    assert failed.value.permanent
    assert "HF_HOME" in failed.value.remedy


def test_blanks_around_the_space_of_a_cpus_cache_count_for_nothing(tmp_path: Path) -> None:
    def needed(space: str) -> int | None:
        environ = {"VLLM_CPU_KVCACHE_SPACE": space, "HF_HOME": str(tmp_path / "hf")}
        return Sizing(Settings.load(environ), "demo", Hardware()).needed_bytes

    assert needed(" 4\n") == needed("4") != needed("5")
