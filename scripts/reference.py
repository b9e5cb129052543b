#!/usr/bin/env python3
"""Writes the reference pages from the declarations in the code.

    .venv/bin/python scripts/reference.py            writes them
    .venv/bin/python scripts/reference.py --check    writes nothing, exits 1 where one is stale

docs/configuration.md, .env.example and what `serve --help` prints come from proxy/settings, the
fields of docs/logs.md and docs/log-schema.json from proxy/telemetry/request_log.py, the metrics of
docs/metrics.md from proxy/telemetry/catalogue.py, the relayed routes of docs/endpoints.md from
proxy/access/routes.py, .runpod from proxy/settings and the presets. Of a page, only what stands
between `<!-- BEGIN name -->` and `<!-- END name -->` is written; the rest is written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from proxy.access.routes import GENERATING, ROUTES, Endpoint, Route  # noqa: E402
from proxy.engine.phase import Phase  # noqa: E402
from proxy.pool import scheduler as pool_scheduler  # noqa: E402
from proxy.pool.metrics import EVICTIONS, LoadKind, TransitionMetrics  # noqa: E402
from proxy.pool.plan import Action, ModelState, Reason  # noqa: E402
from proxy.settings import Settings, variables  # noqa: E402
from proxy.settings.values import Group, first_sentence  # noqa: E402
from proxy.telemetry.catalogue import DECLARED  # noqa: E402
from proxy.telemetry.gauges import STATES  # noqa: E402
from proxy.telemetry.metrics import Metrics  # noqa: E402
from proxy.telemetry.record import Outcome  # noqa: E402
from proxy.telemetry.request_log import (  # noqa: E402
    IN_FLIGHT_FIELDS,
    Field,
    LogFields,
)
from proxy.telemetry.series import Modality  # noqa: E402
from proxy.vllm.flags import flag_name  # noqa: E402

COMMAND = "scripts/reference.py"
# Above this a maximum only keeps a number within what timers and counters hold.
_SHOWN_MAXIMUM = 1_000_000
_LINE_CHARS = 100
_OPTION_CHARS = 34
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")
# Characters of a value that a shell would read as something else.
_SHELL_SPECIAL = re.compile(r"[^\w@%+=:,./*-]")


@dataclass(frozen=True)
class Variable:
    """One variable, as its declaration in proxy/settings says. `default` is empty where unset."""

    name: str
    other_names: tuple[str, ...]
    default: str
    allowed: str
    unit: str
    effect: str
    unset: str
    danger: str
    example: str


def variables_of(group: type[Group]) -> list[Variable]:
    names = variables()
    declared = []
    for field, info in group.model_fields.items():
        first, *others = names[field]
        assert isinstance(info.json_schema_extra, dict)
        declared.append(
            Variable(
                name=first,
                other_names=tuple(others),
                default=as_text(info.default),
                # `None` means nothing there; Annotated wants one at least.
                allowed=allowed(Annotated[(info.annotation, *info.metadata, None)]),
                effect=info.description or "",
                **{key: str(text) for key, text in info.json_schema_extra.items()},
            )
        )
    return declared


def groups() -> list[tuple[str, str, list[Variable]]]:
    """Heading, first line and variables of each, in the order of the page."""
    return [
        (str(base.model_config.get("title")), base.__doc__ or "", variables_of(base))
        for base in reversed(Settings.__bases__)
        if issubclass(base, Group)
    ]


def as_text(value: object) -> str:
    """A default as it would stand in an environment."""
    if value in (None, "", ()):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value.value if isinstance(value, Enum) else value)


def plain_schema(annotation: Any) -> dict[str, Any]:
    """The JSON schema of a type; of one that may be None, that of what is there."""
    schema = TypeAdapter(annotation).json_schema()
    schema = next(
        (each for each in schema.get("anyOf", ()) if each != {"type": "null"}), schema
    ) | {"$defs": schema.get("$defs", {})}
    if "$ref" in schema:
        schema = schema["$defs"][schema["$ref"].rpartition("/")[2]]
    return schema


def allowed(annotation: Any) -> str:
    """The values of a type, where they are few or have bounds."""
    schema = plain_schema(annotation)
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if schema.get("type") == "boolean":
        return "`true`, `false`"
    if schema.get("type") not in ("integer", "number"):
        return ""
    whole = "whole, " if schema["type"] == "integer" else ""
    maximum = schema.get("maximum", _SHOWN_MAXIMUM)
    if "exclusiveMinimum" in schema:
        upto = f", {maximum} at most" if maximum < _SHOWN_MAXIMUM else ""
        return f"{whole}more than {schema['exclusiveMinimum']}{upto}"
    upto = f" to {maximum}" if maximum < _SHOWN_MAXIMUM else " or more"
    return f"{whole}{schema['minimum']}{upto}"


def configuration() -> str:
    """A table for each group, then the names that other images use."""
    parts, aliases = [], []
    for title, about, declared in groups():
        parts += [f"## {title}", "", about, "", "| Variable | Default | Unit | Allowed | Effect |"]
        parts.append("| --- | --- | --- | --- | --- |")
        for each in declared:
            anchor = f'<a id="{each.name.lower()}"></a>`{each.name}`'
            default = f"`{each.default}`" if each.default else "—"
            effect = each.effect
            if each.unset:
                effect += f" Unset: {each.unset}."
            if each.danger:
                effect += f" **Caution:** {each.danger}."
            cells = (anchor, default, each.unit, each.allowed, effect.replace("|", "\\|"))
            parts.append(row(cells))
            aliases += [
                f"| `{alias}` | [`{each.name}`](#{each.name.lower()}) |"
                for alias in each.other_names
            ]
        parts.append("")
    parts += ["## Names that other images use", "", "| Variable | Same as |", "| --- | --- |"]
    return "\n".join([*parts, *aliases])


_ENV_HEAD = """\
# Written by scripts/reference.py; docs/configuration.md has the same with links.
# Copy to .env: docker compose reads it, and `set -a; . ./.env; set +a` gives it to make run.
# Take the # of a line with = away to set a variable. The value there is the default, or an example
# where there is none. Empty means unset.
"""
_ENV_TAIL = """\
## Any other flag of vllm serve, by its UPPER_SNAKE name

# --mm-processor-kwargs: for example the largest image, in pixels
#MM_PROCESSOR_KWARGS='{"max_pixels": 1003520}'
# --override-generation-config: sampling defaults, for requests that do not say otherwise
#OVERRIDE_GENERATION_CONFIG='{"temperature": 0.7, "top_p": 0.9}'
"""


def env_example() -> str:
    parts, aliases = [_ENV_HEAD], ["## Names that other images use\n"]
    for title, _, declared in groups():
        parts.append(f"## {title}\n")
        for each in declared:
            parts += [*_comment(each), f"#{each.name}={_value(each)}"]
            aliases += [f"# Same as {each.name}\n#{alias}=" for alias in each.other_names]
        parts.append("")
    return "\n".join([*parts, *aliases, "", _ENV_TAIL])


def _comment(each: Variable) -> Iterator[str]:
    facts = [each.unit, each.allowed, f"default {each.default}" if each.default else ""]
    text = each.effect + (f" Unset: {each.unset}." if each.unset else "")
    text += f" Caution: {each.danger}." if each.danger else ""
    if any(facts):
        text += f" [{'; '.join(filter(None, facts))}]"
    plain = without_links(text).replace("`", "")
    yield from textwrap.wrap(
        plain, _LINE_CHARS, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def _value(each: Variable) -> str:
    if not each.default:
        return each.example
    return f"'{each.default}'" if _SHELL_SPECIAL.search(each.default) else each.default


_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array"}
# A record knows a route as a word only.
_CLOSED_SETS = {"route": [str(route) for route in Route]}
_MAX_CHOICES_SHOWN = 10


def log_fields() -> dict[str, tuple[Field, dict[str, Any]]]:
    """Declaration and JSON Schema of each field of a request's line."""
    fields = {}
    for name, hint in get_type_hints(LogFields, include_extras=True).items():
        optional, declared = get_args(hint)
        kind = next(each for each in get_args(optional) if each is not type(None))
        if isinstance(kind, type) and issubclass(kind, Enum):
            schema: dict[str, Any] = {"enum": [str(each.value) for each in kind]}
        elif name in _CLOSED_SETS:
            schema = {"enum": _CLOSED_SETS[name]}
        else:
            schema = {"type": _TYPES[get_origin(kind) or kind]}
        absent = f" Absent {declared.absent}." if declared.absent else ""
        description = without_links(declared.text + absent)
        fields[name] = declared, {**schema, **declared.schema, "description": description}
    return fields


def log_table() -> str:
    rows = ["| Field | Type | Unit | What it is | Absent |", "| --- | --- | --- | --- | --- |"]
    for name, (declared, schema) in log_fields().items():
        choices = schema.get("enum") or schema.get("items", {}).get("enum", ())
        words = ", ".join(f"`{choice}`" for choice in choices)
        kind = words or schema["type"]
        if len(choices) > _MAX_CHOICES_SHOWN:
            kind = f"one of {len(choices)} ([list](metrics.md#labels))"
        elif "items" in schema:
            kind = f"array of {words}"
        cells = (f"`{name}`", kind, declared.unit, declared.text, declared.absent or "never")
        rows.append(row(cells))
    return "\n".join(rows)


def log_schema() -> str:
    """The schema with the fields of requests, and closed sets, written anew."""
    schema = json.loads((ROOT / "docs" / "log-schema.json").read_text(encoding="utf-8"))
    kinds, fields = schema["$defs"], log_fields()
    kinds["request"]["required"] = [name for name, (each, _) in fields.items() if not each.absent]
    kinds["request"]["properties"] = {name: each for name, (_, each) in fields.items()}
    own = kinds["flight"]["properties"]
    kinds["flight"]["properties"] = {
        name: {"$ref": f"#/$defs/request/properties/{name}"} for name in IN_FLIGHT_FIELDS
    } | {name: each for name, each in own.items() if "$ref" not in each}
    for name in ("phase", "phase_before"):
        kinds["engine_life"]["properties"][name] = {"enum": [str(phase) for phase in Phase]}
    closed = {"action": Action, "reason": Reason, "outcome": pool_scheduler.Outcome}
    for name, values in closed.items():
        kinds["transition"]["properties"][name] = {"enum": [str(value) for value in values]}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


# What a label says, and its values where they are the same everywhere.
_LABELS: dict[str, tuple[str, Iterable[str]]] = {
    "route": ("Kind of work; `protocol` is of `PROTOCOLS`, `extra` of `EXTRA_ROUTES`", Route),
    "model": (
        "Name that the engine serves, or `other`. A request without a model gets the first name: "
        "the engine answers it by that. Of engines, loads and memory it is the model's first name, "
        "and there only where there are several",
        (),
    ),
    "state": ("State of a model, as `/v1/models` has it", STATES),
    "outcome": (
        "How the request ended; the load of a model is `ok`, `failed` or `abandoned`",
        Outcome,
    ),
    "kind": ("Kind of load: a start, or a wake from sleep", LoadKind),
    "reason": (
        "Why a model was unloaded or sleeps: another one needs its place, `IDLE_UNLOAD_SECONDS`, "
        "by hand, or nobody waited for its load any more",
        EVICTIONS,
    ),
    "key": ("Label of an API key in `API_KEYS` or `API_KEYS_FILE`, never a key", ()),
    "modality": ("Kind of input", Modality),
    "phase": ("Phase of the [engine's life](engine-life.md)", Phase),
    "cause": ("Cause of a failure; [causes.md](causes.md) lists them", ()),
    "gpu": ("Index of the GPU: `0`, `1`, …", ()),
    "version": ("Version of the sidecar", ()),
    "python": ("Version of Python", ()),
}


def metric_table() -> str:
    rows = ["| Metric | Type | Labels | Unit | What it is |", "| --- | --- | --- | --- | --- |"]
    for each in DECLARED:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        rows.append(row((f"`{each.name}`", each.kind, labels, each.unit, each.text)))
    return "\n".join(rows)


def label_table() -> str:
    rows = ["| Label | What it is | Values |", "| --- | --- | --- |"]
    for label in dict.fromkeys(label for each in DECLARED for label in each.labels):
        text, values = _LABELS[label]
        rows.append(row((f"`{label}`", text, ", ".join(f"`{value}`" for value in values))))
    return "\n".join(rows)


def series_table() -> str:
    """The series that are there before the first request, and what there is one more of."""
    metrics = Metrics(GENERATING)
    metrics.requests.served_models = ("demo",)
    found = series_of(metrics)
    TransitionMetrics(metrics.families).add_model("demo")
    metrics.gauges.models = lambda: [("demo", ModelState.READY)]
    of_loads = series_of(metrics) - found
    counts = {
        "each served name": {
            name: count for (label, name), count in found.items() if label == "model"
        },
        "each route": {
            name: count // len(GENERATING)
            for (label, name), count in found.items()
            if label == "route"
        },
        "each model that is loaded here": {name: count for (_, name), count in of_loads.items()},
        "the sidecar": {name: count for (label, name), count in found.items() if not label},
    }
    rows = ["| For | Series | From `sidecar_…` |", "| --- | --- | --- |"]
    for owner, of_metrics in counts.items():
        listed = ", ".join(f"`{name}` {count}" for name, count in of_metrics.items())
        rows.append(row((owner, str(sum(of_metrics.values())), listed)))
    return "\n".join(rows)


def series_of(metrics: Metrics) -> Counter[tuple[str, str]]:
    """How many there are by whose they are (a `model`'s, a `route`'s, or nobody's) and metric."""
    return Counter(
        (
            next((label for label in ("model", "route") if label in sample.labels), ""),
            family.name.removeprefix("sidecar_"),
        )
        for family in metrics.registry.collect()
        for sample in family.samples
    )


def route_table() -> str:
    rows = ["| Path | Route | What |", "| --- | --- | --- |"]
    for spec in ROUTES:
        for endpoint in spec.endpoints:
            rows.append(row((paths_of(endpoint), f"`{spec.route}`", endpoint.about)))
            for alias in endpoint.aliases:
                text = f"The same as `{endpoint.paths[0]}`"
                rows.append(row((f"`{alias}`", f"`{spec.route}`", text)))
    return "\n".join(rows)


def paths_of(endpoint: Endpoint) -> str:
    if endpoint.named_by is not None:
        return f"what `{endpoint.named_by}` names"
    return ", ".join(f"`{path}`" for path in endpoint.paths)


def options() -> str:
    """What `serve --help` says of every option: grouped, at most 100 columns wide."""
    parts = []
    for title, _, declared in groups():
        parts.append(f"\n{title}\n")
        for each in declared:
            option = f"  --{flag_name(each.name)}"
            effect = first_sentence(each.effect).replace("`", "")
            lines = textwrap.wrap(effect, _LINE_CHARS - _OPTION_CHARS)
            if len(option) > _OPTION_CHARS - 2:
                parts.append(f"{option}\n")
                option = ""
            parts.append(f"{option:<{_OPTION_CHARS}}{lines[0]}\n")
            parts += [f"{'':{_OPTION_CHARS}}{line}\n" for line in lines[1:]]
    return "".join(parts)


def without_links(text: str) -> str:
    return _LINK.sub(r"\1", text)


def row(cells: Iterable[str]) -> str:
    return re.sub(r"\|  (?=\|)", "| ", f"| {' | '.join(cells)} |")


def pages() -> dict[Path, str]:
    """Every file that is written, whole or in part, and its text."""
    from scripts import runpod_hub  # which takes the schema of a type from here

    return {
        **runpod_hub.files(),
        ROOT / ".env.example": env_example(),
        ROOT / "proxy" / "commands" / "options.txt": options(),
        ROOT / "docs" / "configuration.md": filled(
            "docs/configuration.md", {"variables": configuration()}
        ),
        ROOT / "docs" / "endpoints.md": filled("docs/endpoints.md", {"routes": route_table()}),
        ROOT / "docs" / "logs.md": filled("docs/logs.md", {"fields": log_table()}),
        ROOT / "docs" / "log-schema.json": log_schema(),
        ROOT / "docs" / "metrics.md": filled(
            "docs/metrics.md",
            {"metrics": metric_table(), "labels": label_table(), "series": series_table()},
        ),
    }


def filled(page: str, blocks: dict[str, str]) -> str:
    """The page with its blocks written anew."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for name, block in blocks.items():
        begin, end = f"<!-- BEGIN {name}, written by {COMMAND} -->\n", f"\n<!-- END {name} -->"
        before, found_begin, rest = text.partition(begin)
        _, found_end, after = rest.partition(end)
        if not (found_begin and found_end):
            sys.exit(f"{COMMAND}: {page} has no block {name!r}: {begin.strip()} ... {end.strip()}")
        text = f"{before}{begin}\n{block}\n{end}{after}"
    return text


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="compare only, write nothing")
    check = parser.parse_args(arguments).check
    stale = {
        path: text
        for path, text in pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        if check:
            print(
                f"{path.relative_to(ROOT)}: stale; run .venv/bin/python {COMMAND}", file=sys.stderr
            )
        else:
            path.write_text(text, encoding="utf-8")
            print(f"{COMMAND}: wrote {path.relative_to(ROOT)}")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
