"""Which files of a model repository vLLM reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

# The same model for other programs, training leftovers, or Meta's own format.
_IGNORED_FOLDERS = ("original", "onnx", "openvino", "coreml", "metal", "gguf", "checkpoint-*", ".*")
_WEIGHT_SUFFIXES = frozenset(
    {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack", ".ot", ".ckpt"}
)
# Config, tokenizer, processor, chat template, custom code.
_SMALL_SUFFIXES = frozenset(
    {".json", ".txt", ".model", ".jinja", ".py", ".tiktoken", ".spm", ".vocab", ".bpe", ".yaml"}
)
# `tokenizer.model.v3`, `vocab`, `merges`: found by the beginning of the name.
_SMALL_PREFIXES = ("tokenizer", "vocab", "merges")
# vLLM skips the same (`filter_files_not_needed_for_inference`).
_TRAINER_FILES = ("*training_args.bin", "*optimizer.*", "*scheduler.*", "*scaler.pt")


def choose_files(names: Sequence[str]) -> list[str]:
    """The files to fetch, in the order given: one weight format per folder, and all small files."""
    kept = [name for name in names if not _in_ignored_folder(name)]
    weights = weight_files(kept)
    return [name for name in kept if name in weights or _is_small(name)]


def weight_files(names: Sequence[str]) -> frozenset[str]:
    """The weights vLLM would load from files of these names.

    Per folder, since sentence-transformers keep a safetensors head beside a .bin model.
    """
    folders: defaultdict[PurePosixPath, list[str]] = defaultdict(list)
    for name in names:
        folders[PurePosixPath(name).parent].append(name)
    return frozenset(name for files in folders.values() for name in _best_format(files))


def _best_format(files: Sequence[str]) -> list[str]:
    for is_of_format in _formats(files):
        found = [name for name in files if is_of_format(PurePosixPath(name).name)]
        if found:
            return found
    return []


def _formats(files: Sequence[str]) -> list[Callable[[str], bool]]:
    """Weight formats in vLLM's order of preference.

    With `--load-format auto` vLLM takes `consolidated*.safetensors` wherever the hub lists
    them (`DefaultModelLoader._prepare_weights`), also beside a full set of HF weights. Any
    other choice here would make its worker download a second set, without progress.
    """
    formats: list[Callable[[str], bool]]
    formats = [_is_hf_safetensors, _is_consolidated, _is_bin, _is_pt]
    is_mistral = any(PurePosixPath(name).name == "params.json" for name in files)
    return [_is_consolidated, *formats] if is_mistral else formats


def _is_consolidated(name: str) -> bool:
    return fnmatchcase(name, "consolidated*.safetensors")


def _is_hf_safetensors(name: str) -> bool:
    return name.endswith(".safetensors") and not _is_consolidated(name)


def _is_bin(name: str) -> bool:
    return name.endswith(".bin") and not _is_trainer_file(name)


def _is_pt(name: str) -> bool:
    return name.endswith(".pt") and not _is_trainer_file(name)


def _is_trainer_file(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in _TRAINER_FILES)


def _is_small(name: str) -> bool:
    path = PurePosixPath(name)
    if path.suffix in _WEIGHT_SUFFIXES:
        return False
    return path.suffix in _SMALL_SUFFIXES or path.name.startswith(_SMALL_PREFIXES)


def _in_ignored_folder(name: str) -> bool:
    folders = PurePosixPath(name).parts[:-1]
    return any(fnmatchcase(folder, ignored) for folder in folders for ignored in _IGNORED_FOLDERS)
