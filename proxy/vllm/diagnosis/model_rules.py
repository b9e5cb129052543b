"""Starts that fail because of the model: not there, not allowed, broken, not supported."""

from __future__ import annotations

import re

from proxy.errors import Cause
from proxy.installation import INSTALL_ENGINE
from proxy.vllm.diagnosis.rule import Rule, error, line

# huggingface_hub warns before it writes; the error itself names no size.
_SPACE = re.compile(
    r"UserWarning: Not enough free disk space to download the file\. The expected file size is: "
    r"(?P<size>[\d.]+ \w+)\. The target location \S+ only has (?P<left>[\d.]+ \w+) free"
)

_MODEL_CACHE = (
    "The model cache cannot be written.",
    "Set HF_HOME to a directory that is writable, or mount this one writable.",
)

# The sidecar fetches the model itself and explains what fails there (proxy/models/hub_failure.py).
_OF_THE_HUB = (
    "vLLM itself asked the hub: check what names a repository (TOKENIZER, SPECULATIVE_CONFIG, "
    "LORA_MODULES, :QUANT in MODEL_NAME), HF_TOKEN and HF_ENDPOINT."
)

MODEL_RULES: tuple[Rule, ...] = (
    Rule(
        Cause.MODEL_GATED,
        error(
            r"(?P<problem>Access to model \S+ is restricted[\w ]*"
            r"|You are trying to access a gated repo|403 Forbidden: [^.\n]*)"
        ),
        "The hub gives vLLM no access: {problem}.",
        _OF_THE_HUB,
    ),
    Rule(
        Cause.MODEL_NOT_FOUND,
        error(
            # huggingface_hub says what is missing below the status.
            r"(?:(?:\w+\.)*(?:DisabledRepo|(?:Repository|Revision)NotFound)Error: "
            r"(?:\d+ Client Error.*\n\s*)?"
            r"|(?=\S+ is not a (?:local folder and|valid git)|Repo id must (?:be in|use)))"
            r"(?P<problem>.*?)\.?$"
        ),
        "The hub has no such repository or revision, or it is private or disabled: {problem}.",
        _OF_THE_HUB,
    ),
    Rule(
        Cause.MODEL_NOT_FOUND,
        error(
            r"(?:(?:\w+\.)*OfflineModeIsEnabled: "
            r"|Cannot find an appropriate cached snapshot folder .*outgoing traffic has been dis)"
        ),
        "A file that vLLM wants of the hub is not cached, and HF_HUB_OFFLINE forbids fetching it.",
        f"Unset HF_HUB_OFFLINE for one start. {_OF_THE_HUB}",
    ),
    Rule(
        Cause.MODEL_NOT_FOUND,
        error(r"Invalid repository ID or local directory specified: '(?P<model>[^'\n]+)'"),
        "{model} holds no model: there is no config.json.",
        "Set MODEL_NAME to a directory with config.json, or to a model on the hub.",
    ),
    Rule(
        Cause.MODEL_NOT_FOUND,
        error(r"Cannot find any model weights with `(?P<model>[^`\n]+)`"),
        "{model} holds no weights.",
        "Complete the download, or set MODEL_NAME to a model that has weights.",
    ),
    Rule(
        Cause.HUB_RATE_LIMITED,
        error(
            r"(?:Client error '429 |429 Client Error|429 Too Many Requests"
            # As the newest line only: hours later it would explain nothing.
            r"|Rate limited\. Waiting [\d.]+s before retry[^\n]*(?:\n[^\n]*){0,2}\Z)"
        ),
        "The hub refuses more requests for now (429); those with HF_TOKEN have a higher limit.",
        _OF_THE_HUB,
        permanent=False,
    ),
    Rule(
        Cause.TOKEN_INVALID,
        error(r"Client error '401 |401 Client Error|Invalid credentials in Authorization header"),
        "The hub does not accept HF_TOKEN (401).",
        _OF_THE_HUB,
    ),
    Rule(
        Cause.DISK_FULL,
        error(r"\[Errno 28\] No space left on device: '/(?:dev/shm/)?(?:psm_|sem\.|torch_|nccl-)"),
        "Shared memory (/dev/shm) is full.",
        "Give the container more shared memory (docker run --shm-size=8g, or --ipc=host).",
    ),
    Rule(
        Cause.DISK_FULL,
        error(r"(?:\[Errno (?:28|122)\]|.*\(os error 28\))"),
        "The disk is full{space}.",
        "Make room, give the volume more space, or set HF_HOME to a larger one.",
        also=_SPACE,
    ),
    Rule(
        Cause.CACHE_NOT_WRITABLE,
        # Not any path: what must only be read may be forbidden, too.
        error(
            r"(?:\[Errno 13\] [^\n']{1,40}: '[^'\n]*(?:/hub\b|huggingface|/models--)"
            r"|PermissionError at \S+ when downloading)"
        ),
        *_MODEL_CACHE,
    ),
    Rule(
        Cause.CACHE_NOT_WRITABLE,
        # [C] VLLM_CACHE_ROOT, vllm/envs.py
        error(r"\[Errno (?:13|30)\] [^\n']{1,40}: '(?P<path>[^'\n]*/\.cache/vllm\b[^'\n]*)'"),
        "vLLM's cache of compiled code cannot be written ({path}).",
        "Set VLLM_CACHE_ROOT to a directory that this user can write to.",
    ),
    Rule(
        Cause.CACHE_NOT_WRITABLE,
        error(r"\[Errno 30\] Read-only file system"),
        *_MODEL_CACHE,
    ),
    Rule(
        Cause.HUB_UNREACHABLE,
        error(
            # The classes of its HTTP libraries: before it serves, vLLM uses them only for the hub.
            # A status (404 for an optional file) is an answer, not a broken line.
            r"(?:(?:httpx2?|httpcore2?|requests\.exceptions)\.(?!HTTPStatusError)"
            r"\w*(?:Error|Timeout|Exception): "
            r"|(?=Server error '5\d\d|We couldn't connect to '))(?P<problem>.*)"
        ),
        "The hub cannot be reached, or broke off: {problem}.",
        _OF_THE_HUB,
        permanent=False,
    ),
    Rule(
        Cause.CORRUPT_FILE,
        error(r"Error while deserializing header: header too large"),
        "A weights file is no safetensors file (a Git LFS pointer, perhaps).",
        "Fetch the file again (git lfs pull), or delete the model from HF_HOME.",
    ),
    Rule(
        Cause.CORRUPT_FILE,
        error(r"Error while deserializing header: (?P<problem>[^\n'\"]+)"),
        "A weights file is cut off or damaged ({problem}).",
        "Delete the model from HF_HOME (or MODEL_NAME's directory) and fetch it again.",
    ),
    Rule(
        Cause.CORRUPT_FILE,
        # [C] model_executor/model_loader/weight_utils.py, default_loader.py
        error(
            r"(?:Weight files referenced in index but missing|Following weights were not "
            r"initialized from checkpoint): \{'(?:[^'\n]*/)?(?P<file>[^'/\n]+)'"
        ),
        "The model's weights are not complete: {file} is missing.",
        "Fetch the model again, or copy all of it.",
    ),
    Rule(
        Cause.CORRUPT_FILE,
        error(r"(?:PytorchStreamReader failed|invalid load key, )"),
        "A weights file is cut off or damaged.",
        "Delete the model from HF_HOME (or MODEL_NAME's directory) and fetch it again.",
    ),
    Rule(
        Cause.CORRUPT_FILE,
        error(r"start \(\d+\) \+ length \(\d+\) exceeds dimension size"),
        "The weights do not have the shapes that config.json says.",
        "Fetch config.json and the weights again, from one revision (MODEL_REVISION).",
    ),
    Rule(
        Cause.CORRUPT_FILE,
        error(r"It looks like the config file at '(?:[^'\n]*/)?(?P<file>[^'/\n]+)' is not a valid"),
        "{file} of the model is not valid JSON.",
        "Fetch the model again, or correct that file.",
    ),
    Rule(
        Cause.TRUST_REMOTE_CODE,
        line(r".*?The repository (?P<model>\S+) contains custom code which must be executed"),
        "{model} needs Python code of its own, and running it was not allowed.",
        "Set TRUST_REMOTE_CODE=true if you trust its authors.",
    ),
    Rule(
        Cause.UNSUPPORTED_MODEL,
        error(r"Model architectures \['(?P<arch>\w+)'[^\]\n]*\] are not supported"),
        "This vLLM has no implementation of {arch}.",
        "Set MODEL_NAME to a model that vLLM supports, or use a newer image.",
    ),
    Rule(
        Cause.UNSUPPORTED_MODEL,
        # [C] vllm/model_executor/models/registry.py
        error(
            r"Model architecture (?P<arch>\w+) was supported in vLLM until v(?P<version>[\d.]*\d)"
        ),
        "vLLM ran {arch} up to version {version}, and does not any more.",
        "Use an image with vLLM {version}, or another MODEL_NAME.",
    ),
    Rule(
        Cause.UNSUPPORTED_MODEL,
        # [C] vllm/model_executor/models/registry.py
        error(
            r"Model architecture (?P<arch>\w+) is not supported in-tree anymore\. "
            r"Please install the plugin at (?P<address>\S+) "
        ),
        "vLLM runs {arch} only with the plugin at {address}.",
        "Install it into the image, or set another MODEL_NAME.",
    ),
    Rule(
        Cause.MISSING_PACKAGE,
        # [C] transformers/dynamic_module_utils.py
        error(
            r"This modeling file requires the following packages that were not found in your "
            r"environment: (?P<packages>[\w., -]+?)\. Run"
        ),
        "The model's own code needs Python packages that are not installed: {packages}.",
        "Build an image in which they are installed, or set MODEL_NAME to another model.",
    ),
    Rule(
        Cause.MISSING_PACKAGE,
        # [C] vllm/model_executor/models/deepseek_vl2.py, minicpmv.py
        error(r"Please install (?P<packages>[\w.=<>-]+)$"),
        "This model needs a Python package that is not installed: {packages}.",
        "Build an image in which it is installed, or set MODEL_NAME to another model.",
    ),
    Rule(
        Cause.UNSUPPORTED_MODEL,
        error(r".*?has model type `(?P<arch>[^`\n]+)` but Transformers does not recognize"),
        "The model type {arch} is not known.",
        "Set MODEL_NAME to a model that vLLM supports, or use a newer image.",
    ),
    Rule(
        Cause.UNSUPPORTED_MODEL,
        error(
            r"Unknown quantization method: (?P<value>\S+?)\. Must be one of \[(?P<choices>[^\]]+)"
        ),
        "This vLLM does not know the quantization {value}.",
        "Set QUANTIZATION to one of {choices}, or MODEL_NAME to another model.",
    ),
    Rule(
        Cause.NO_TOKENIZER,
        error(
            r"(?:Can't load tokenizer for|Couldn't instantiate the backend tokenizer"
            r"|Unable to load vocabulary from file)"
        ),
        "The model's tokenizer is missing or cannot be read.",
        "Fetch the tokenizer's files too, or set TOKENIZER to a model that has them.",
    ),
)

IMPORT_RULES: tuple[Rule, ...] = (
    Rule(
        Cause.MISSING_PACKAGE,
        error(r"No module named '(?P<packages>[\w.]+)'"),
        "The engine or the model needs a Python package that is not installed: {packages}.",
        "Install the one that fits the installed torch, use vLLM's image, or set MODEL_NAME to a "
        "model that does without.",
    ),
    Rule(
        Cause.MISSING_PACKAGE,
        error(r"cannot import name '(?P<name>\w+)' from '(?P<packages>[\w.]+)'"),
        "A Python package does not fit this vLLM: {packages} has no {name}.",
        f"Use vLLM's image, or make the environment anew ({INSTALL_ENGINE}).",
    ),
    Rule(
        Cause.MISSING_PACKAGE,
        # Not the driver's own: without those there is no GPU, which has a rule of its own.
        error(
            r"(?P<library>lib(?!cuda|nvidia)[\w.+-]+\.so[\w.]*): "
            r"cannot open shared object file: No such file"
        ),
        "The engine needs a library of the system that is not installed: {library}.",
        "Install it in the image, or use vLLM's image.",
    ),
)
"""Of code that cannot be imported. Looked at last: vLLM logs such an error of a plugin, too, and
goes on without it."""
