"""docs/log-schema.json is what is written, and no other line passes."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from proxy.settings import LogFormat
from proxy.tasks import model_of_task
from proxy.telemetry.logs import configure
from proxy.telemetry.record import Outcome
from proxy.telemetry.request_log import LogFields, log_in_flight, log_request
from tests.log_schema import SCHEMA, check_lines, faults
from tests.proxy.telemetry.conftest import Lines, as_before, lines
from tests.proxy.telemetry.records import finished, full

__all__ = ["as_before", "lines"]

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "logs.md").read_text()
REQUEST = SCHEMA["$defs"]["request"]["properties"]


def written(lines: Lines) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines()]


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_lines_as_they_are_written_pass(lines: Lines) -> None:
    configure(LogFormat.JSON, "debug")
    log_request(full())
    log_request(finished(request_id="id-2", method="", path=""))
    log_in_flight([full(), finished(request_id="id-3")])
    for name in ("proxy.server", "vllm", "proxy.engine", "asyncio", "huggingface_hub"):
        logging.getLogger(name).warning("a word")
    try:
        raise ValueError("oops")
    except ValueError:
        logging.getLogger("proxy.relay").exception("failed", extra={"request_id": "id-4"})
    found = written(lines)
    assert len(found) == 10
    check_lines(found)


def test_of_several_models_each_line_may_name_the_one_that_its_task_takes_care_of(
    lines: Lines,
) -> None:
    """Also where a library says it: in a callback, or of an exception that nobody awaits."""
    configure(LogFormat.JSON, "debug")
    names = ("proxy", "proxy.relay", "proxy.tasks", "proxy.pool", "vllm", "asyncio", "httpx")
    token = model_of_task.set("two")
    for name in names:
        logging.getLogger(name).warning("a word")
    model_of_task.reset(token)
    found = written(lines)
    assert [line["model"] for line in found] == ["two"] * len(names)
    check_lines(found)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"prompt": "Tell me a secret"}, "unevaluatedProperties of $"),
        ({"outcome": "fine"}, "enum of $.outcome"),
        ({"ttft_ms": -1}, "minimum of $.ttft_ms"),
        ({"ttft_ms": "soon"}, "type of $.ttft_ms"),
        ({"prompt_tokens": 1.5}, "type of $.prompt_tokens"),
        ({"model": "x" * 513}, "maxLength of $.model"),
        ({"timestamp": "yesterday"}, "pattern of $.timestamp"),
        ({"logger": "vllm"}, "unevaluatedProperties of $"),
        ({"level": "LOUD"}, "enum of $.level"),
        ({"request_id": None}, "type of $.request_id"),
    ],
)
def test_a_line_that_is_not_as_the_schema_says_does_not_pass(
    lines: Lines, change: dict[str, Any], says: str
) -> None:
    configure(LogFormat.JSON, "info")
    log_request(full())
    (line,) = written(lines)
    assert faults(line) == []
    assert any(says in fault for fault in faults(line | change)), faults(line | change)
    with pytest.raises(AssertionError, match=re.escape(says)):
        check_lines([line, line | change])


@pytest.mark.parametrize("name", ["outcome", "request_id", "timestamp", "duration_ms"])
def test_a_line_that_lacks_what_every_request_has_does_not_pass(lines: Lines, name: str) -> None:
    configure(LogFormat.JSON, "info")
    log_request(full())
    (line,) = written(lines)
    del line[name]
    assert any("required of $" in fault for fault in faults(line))
    with pytest.raises(AssertionError, match="required of"):
        check_lines([line])


# docs/logs.md ---------------------------------------------------------------------------------


def test_the_page_shows_a_line_as_it_is_declared() -> None:
    (example,) = re.findall(r'```json\n(\{"level": "INFO".*?)```', PAGE, re.S)
    line = json.loads(example)
    assert faults(line) == []
    names = [name for name in line if name in REQUEST]
    assert names == [name for name in LogFields.__struct_fields__ if name in line]


def test_the_page_explains_every_outcome() -> None:
    table = PAGE.split("| Outcome | What happened |\n| --- | --- |\n")[1].split("\n\n")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == list(Outcome)


SNIPPETS = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)]


def test_vector_takes_fields_that_there_are() -> None:
    (vector,) = (snippet for snippet in SNIPPETS if "transforms" in snippet)
    assert set(vector) == {"sources", "transforms", "sinks"}
    (read,) = vector["transforms"].values()
    assert set(read["inputs"]) == set(vector["sources"])
    known = {*REQUEST, *SCHEMA["properties"]}
    assert set(re.findall(r"parsed\.(\w+)", read["source"])) <= known
    (sink,) = vector["sinks"].values()
    assert set(sink["inputs"]) == set(vector["transforms"])
    assert set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(sink["labels"]))) <= known


def test_promtail_takes_fields_that_there_are() -> None:
    (promtail,) = (snippet for snippet in SNIPPETS if "scrape_configs" in snippet)
    (job,) = promtail["scrape_configs"]
    stages = {name: stage for each in job["pipeline_stages"] for name, stage in each.items()}
    extracted = stages["json"]["expressions"]
    assert set(extracted) <= {*REQUEST, *SCHEMA["properties"]}
    assert set(stages["labels"]) <= set(extracted)
    assert stages["timestamp"]["source"] in extracted
