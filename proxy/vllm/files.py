"""Which files of a model repository vLLM reads."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
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
    kept = [
        name
        for name in names
        if not any(
            fnmatchcase(folder, ignored)
            for folder in PurePosixPath(name).parts[:-1]
            for ignored in _IGNORED_FOLDERS
        )
    ]
    weights = weight_files(kept)
    chosen = []
    for name in kept:
        path = PurePosixPath(name)
        is_small = path.suffix not in _WEIGHT_SUFFIXES and (
            path.suffix in _SMALL_SUFFIXES or path.name.startswith(_SMALL_PREFIXES)
        )
        if name in weights or is_small:
            chosen.append(name)
    return chosen


def weight_files(names: Sequence[str]) -> frozenset[str]:
    """The weights vLLM would load from files of these names.

    Per folder, since sentence-transformers keep a safetensors head beside a .bin model.

    With `--load-format auto` vLLM takes `consolidated*.safetensors` wherever the hub lists
    them (`DefaultModelLoader._prepare_weights`), also beside a full set of HF weights. Any
    other choice here would make its worker download a second set, without progress.
    """
    folders: defaultdict[PurePosixPath, dict[str, str]] = defaultdict(dict)
    for name in names:
        path = PurePosixPath(name)
        folders[path.parent][path.name] = name
    chosen: set[str] = set()
    for files in folders.values():
        consolidated = {file for file in files if fnmatchcase(file, "consolidated*.safetensors")}
        trainer = {
            file for file in files for pattern in _TRAINER_FILES if fnmatchcase(file, pattern)
        }
        in_order_of_preference = [
            consolidated if "params.json" in files else set(),
            {file for file in files if file.endswith(".safetensors")} - consolidated,
            consolidated,
            {file for file in files if file.endswith(".bin")} - trainer,
            {file for file in files if file.endswith(".pt")} - trainer,
        ]
        chosen |= {files[file] for file in next(filter(None, in_order_of_preference), set())}
    return frozenset(chosen)
