"""The files of RunPod's Hub, made from the sidecar's own settings for `scripts/reference.py`.

Each variable has one entry with its default and its effect; the presets are four of the shipped
ones. Fields are those of RunPod's publishing guide (https://docs.runpod.io/hub/publishing-guide).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

from proxy.models.preset_choice import SHIPPED
from proxy.models.preset_file import read_presets
from proxy.settings import Settings, variables
from proxy.settings.values import first_sentence
from scripts.reference import plain_schema

Entry = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
CUDA_VERSIONS = ["13.0"]  # of the image's plain tag
# RunPod's limit for one pod, static values and defaults together.
MAX_VALUES = 50
# What the platform decides, and what the presets need beside the sidecar's own variables.
STATIC = {
    "PORT": "8000",
    # The pod proxy cuts a connection after 100 s of silence.
    "SSE_KEEP_ALIVE_SECONDS": "15",
}
FLAGS = {"MM_PROCESSOR_KWARGS": "Options of the model's image processor, as JSON."}
PRESETS = ("qwen2-vl-7b", "llava-1.5-7b", "phi-3.5-vision", "qwen2-vl-7b-awq")
# Seen at once; all others are under "advanced".
FIRST = ("MODEL_NAME", "HF_TOKEN", "API_KEYS", "MAX_MODEL_LEN", "IMAGE_LIMIT", "SERVED_MODEL_NAME")
# An engine elsewhere has no place in an image that holds one.
LEFT_OUT = ("UPSTREAM_URL",)


def env() -> list[Entry]:
    """One entry a variable, the important ones first; aliases would only repeat them."""
    entries: list[Entry] = [{"key": key, "value": value} for key, value in STATIC.items()]
    fields = {names[0]: field for field, names in variables().items()}
    for name in sorted(fields, key=lambda each: FIRST.index(each) if each in FIRST else len(FIRST)):
        if name not in STATIC and name not in LEFT_OUT:
            entries.append({"key": name, "input": form_field(name, fields[name])})
    for name, effect in FLAGS.items():
        entries.append(
            {"key": name, "input": described(name, effect) | {"type": "string", "advanced": True}}
        )
    valued = sum("value" in each or "default" in each["input"] for each in entries)
    if valued > MAX_VALUES:
        sys.exit(f"runpod_hub: {valued} variables have a value, RunPod takes {MAX_VALUES}")
    return entries


def described(name: str, effect: str) -> Entry:
    words = name.replace("_", " ").capitalize()
    for short in ("Hf", "Gpu", "Url", "Kv", "Api"):
        words = re.sub(rf"\b{short}\b", short.upper(), words, flags=re.IGNORECASE)
    return {"name": words, "description": effect}


def form_field(name: str, field: str) -> Entry:
    info = Settings.model_fields[field]
    entry = described(name, first_sentence(info.description or "")) | kind_of(
        name, info.annotation, info.default
    )
    return entry | ({} if name in FIRST else {"advanced": True})


def kind_of(name: str, annotation: Any, default: Any) -> Entry:
    """Type, choices and default of a form field; what is unset has no default."""
    if name == "MODEL_NAME":
        return {"type": "huggingface"}
    value = default.value if isinstance(default, Enum) else default
    known: Entry = {} if value in (None, "", ()) else {"default": value}
    schema = plain_schema(annotation)
    if schema.get("type") == "boolean":
        return {"type": "boolean", "trueValue": "true", "falseValue": "false", **known}
    if schema.get("type") in ("integer", "number"):
        return {"type": "number", **known}
    options = [{"label": each, "value": each} for each in schema.get("enum", ())]
    return {"type": "string", **({"options": options} if options else {}), **known}


def presets() -> list[Entry]:
    """A value has the type of its form field."""
    types = {each["key"]: each["input"]["type"] for each in env() if "input" in each}
    read: dict[str, Callable[[str], object]] = {
        "number": int,
        "boolean": lambda value: value == "true",
    }
    shipped = read_presets(SHIPPED)
    entries = []
    for preset in (shipped[name] for name in PRESETS):
        variables = preset.engine_variables.items()
        values = {name: read.get(types[name], str)(value) for name, value in variables}
        model = preset.repository
        entries.append({"name": model, "defaults": {"MODEL_NAME": model, **values}})
    return entries


def hub() -> Entry:
    return {
        "title": "vLLM with a sidecar",
        "description": "Stock vLLM for vision-language models behind a thin sidecar: health that "
        "is true, usage always known, one log line per request, Prometheus metrics.",
        "type": "serverless",
        "category": "language",
        "config": {
            "endpointType": "LB",
            "runsOn": "GPU",
            "containerDiskInGb": 100,
            "gpuCount": 1,
            "gpuIds": "ADA_24,AMPERE_48,ADA_48_PRO,AMPERE_80",
            "allowedCudaVersions": CUDA_VERSIONS,
            "presets": presets(),
            "env": env(),
        },
    }


def tests() -> Entry:
    """A small model, and every default as the form has it."""
    model = "Qwen/Qwen2-VL-7B-Instruct-AWQ"
    (preset,) = (each["defaults"] for each in presets() if each["name"] == model)
    given = {**preset, "MAX_MODEL_LEN": "4096"}
    for each in env():
        value = each.get("value", each.get("input", {}).get("default"))
        if value is not None:
            given.setdefault(
                each["key"], str(value).lower() if isinstance(value, bool) else str(value)
            )
    question = {"role": "user", "content": "Say yes."}
    return {
        "tests": [
            {
                "name": "chat",
                "input": {"messages": [question], "max_tokens": 4},
                "timeout": 600_000,
            }
        ],
        "config": {
            "gpuTypeId": "NVIDIA GeForce RTX 4090",
            "gpuCount": 1,
            "env": [{"key": key, "value": value} for key, value in given.items()],
            "allowedCudaVersions": CUDA_VERSIONS,
        },
    }


def files() -> dict[Path, str]:
    return {
        ROOT / ".runpod" / name: json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        for name, content in (("hub.json", hub()), ("tests.json", tests()))
    }
