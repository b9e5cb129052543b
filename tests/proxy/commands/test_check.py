"""`python3 -m proxy check`: a table of what would stop a start."""

from __future__ import annotations

import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxy.commands.check import table
from proxy.machine.hardware import Gpu, Hardware
from proxy.preflight.checkup import hardware_finding
from proxy.preflight.finding import Finding, Result
from proxy.settings import Settings
from tests.fake_engine import BIN, FakeEngine
from tests.fake_hub import FakeHub, Fault, Kind, running_hub
from tests.fork_server import SIDECAR
from tests.measure import measured
from tests.patience import PATIENCE
from tests.ports import free_ports
from tests.tools import needs

REPOSITORY = "tiny/model"
OURS = (
    "HF_",
    "MODEL",
    "PORT",
    "HOST",
    "UPSTREAM",
    "VLLM_",
    "ADMIN_KEYS",
    "API_KEYS",
    "OTEL_",
    "LOG_",
    "PROTOCOL",
)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[FakeHub]:
    with running_hub(tmp_path / "models") as hub:
        folder = hub.root / REPOSITORY
        folder.mkdir(parents=True)
        config = {"architectures": ["LlamaForCausalLM"]}
        (folder / "config.json").write_text(json.dumps(config))
        with (folder / "model.safetensors").open("wb") as weights:
            weights.truncate(200_000_000)
        yield hub


class Run:
    """One run of the command: exit code, rows by the name of their check, all its output."""

    def __init__(self, tmp_path: Path, *arguments: str, **environ: str) -> None:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        port, upstream = free_ports(2)
        ours = {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "PORT": str(port),
            "UPSTREAM_PORT": str(upstream),
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        all_of_it = inherited | measured() | ours | environ
        with (tmp_path / "out").open("w+b") as output, (tmp_path / "err").open("w+b") as error:
            started = SIDECAR.start(arguments or ["check"], all_of_it, output, error=error)
            self.code = started.wait(PATIENCE)
        self.out = (tmp_path / "out").read_text()
        self.err = (tmp_path / "err").read_text()
        lines = [line for line in self.out.splitlines()[1:] if not line.startswith(" ")]
        cells = [re.split(" {2,}", line, maxsplit=2) for line in lines]
        self.rows = {name: rest for name, *rest in cells}


def test_without_a_gpu_and_a_model_name_the_demo_can_be_served(tmp_path: Path) -> None:
    run = Run(tmp_path, HOST="127.0.0.1")
    assert (run.code, run.err) == (0, "")
    assert {row[0] for row in run.rows.values()} == {"ok"}
    assert run.rows["model"][1].startswith("demo:")
    names = ["environment", "engine", "hardware", "engine port", "disk", "model", "keys", "port"]
    assert list(run.rows) == names


def test_a_demo_that_cannot_be_written_cannot_be_served(tmp_path: Path) -> None:
    run = Run(tmp_path, HOST="127.0.0.1", HF_HOME="/proc/none/hf")
    assert (run.code, run.rows["model"][0]) == (1, "fail")
    assert "/proc/none/sidecar/demo cannot be written: " in run.rows["model"][1]


def test_an_engine_that_may_sleep_needs_no_port(tmp_path: Path) -> None:
    preset = '{"dozy": {"repository": "demo", "sleep": "level1"}}'
    run = Run(tmp_path, HOST="127.0.0.1", MODEL_NAME="dozy", MODELS_INLINE=preset)
    assert run.code == 0
    assert "engine port" not in run.rows


@pytest.mark.hub
def test_a_model_of_the_hub_is_told_with_its_size_and_is_not_fetched(
    tmp_path: Path, hub: FakeHub
) -> None:
    run = Run(tmp_path, MODEL_NAME=REPOSITORY, HF_ENDPOINT=hub.url)
    assert run.code == 0
    commit = hub.commit(REPOSITORY)[:12]
    assert run.rows["model"] == [
        "ok",
        f"{REPOSITORY} at {commit} may be read; 0.2 of 0.2 GB are to be fetched.",
    ]
    assert hub.count("GET /cdn/*") == 0


@pytest.mark.hub
@pytest.mark.parametrize(
    ("fault", "environ", "says"),
    [
        (Fault(Kind.INVALID_TOKEN), {"HF_TOKEN": "hf_x"}, "does not accept HF_TOKEN"),
        (Fault(Kind.HUGE, "HEAD *.safetensors", at=9 * 10**15), {}, "needs 9000000.0 GB more"),
        (Fault(Kind.UNAVAILABLE), {}, "HTTP 503"),
    ],
)
def test_what_would_end_a_start_is_a_row_that_fails(
    tmp_path: Path, hub: FakeHub, fault: Fault, environ: dict[str, str], says: str
) -> None:
    hub.faults.append(fault)
    run = Run(tmp_path, **{"MODEL_NAME": REPOSITORY, "HF_ENDPOINT": hub.url} | environ)
    assert run.code == 1
    result, found = run.rows["model"]
    assert (result, says in found) == ("fail", True), found
    assert "-> " in run.out
    assert "hf_x" not in run.out + run.err
    assert "Traceback" not in run.err


@needs("vllm")
@pytest.mark.hub
@pytest.mark.parametrize(
    ("name", "code", "result"), [("LlamaForCausalLM", 0, "ok"), ("FooBarForCausalLM", 1, "fail")]
)
def test_whether_vllm_has_the_architecture_is_told_beside_what_may_be_read(
    tmp_path: Path, hub: FakeHub, name: str, code: int, result: str
) -> None:
    config = {"architectures": [name]}
    (hub.root / REPOSITORY / "config.json").write_text(json.dumps(config))
    run = Run(tmp_path, MODEL_NAME=REPOSITORY, HF_ENDPOINT=hub.url)
    assert run.code == code
    assert run.rows["model"][0] == "ok"
    assert run.rows["architecture"][0] == result


@pytest.mark.parametrize("name", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
def test_the_disk_is_the_one_that_models_go_to(tmp_path: Path, name: str) -> None:
    elsewhere = str(tmp_path / "elsewhere")
    run = Run(tmp_path, MODEL_NAME="demo", **{name: elsewhere})
    assert run.rows["disk"][1].endswith(f"free for the cache at {elsewhere}.")


def test_ports_that_are_taken_fail(tmp_path: Path) -> None:
    with closing(socket.create_server(("0.0.0.0", 0))) as foreign:
        taken = str(foreign.getsockname()[1])
        assert Run(tmp_path, PORT=taken).rows["port"][0] == "fail"
        assert Run(tmp_path, METRICS_PORT=taken).rows["port"][0] == "fail"
        run = Run(tmp_path, UPSTREAM_PORT=taken)
    assert (run.code, run.rows["engine port"][0]) == (1, "fail")


def test_an_address_of_another_machine_fails_and_nobody_is_blamed_for_it(tmp_path: Path) -> None:
    run = Run(tmp_path, HOST="192.0.2.1")
    assert (run.code, run.rows["port"][0]) == (1, "fail")
    assert "a running sidecar" not in run.out
    assert "Correct HOST" in run.out


def test_an_open_address_is_a_warning_and_keys_are_told_by_their_labels(tmp_path: Path) -> None:
    run = Run(tmp_path)
    assert (run.code, run.rows["keys"][0]) == (0, "warn")
    run = Run(tmp_path, API_KEYS="alice:sk-0123456789abcdef,sk-fedcba9876543210")
    assert run.rows["keys"] == ["ok", "2: alice, key-2."]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("traces", "OTEL_EXPORTER_OTLP_ENDPOINT"),
        ("traces", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        ("log lines", "OTLP_LOGS_ENDPOINT"),
    ],
)
def test_a_collector_is_looked_for_where_one_is_named(tmp_path: Path, row: str, name: str) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
        endpoint = {name: f"http://{place}"}
        there = Run(tmp_path, HOST="127.0.0.1", **endpoint)
    assert there.rows[row] == ["ok", f"To {place}, by http/protobuf."]
    gone = Run(tmp_path, HOST="127.0.0.1", **endpoint)
    assert (gone.code, gone.rows[row][0]) == (0, "warn")
    assert gone.rows[row][1].startswith(f"Nobody takes them at {place}: ")
    assert f"-> Check {name} and " in gone.out


def test_a_misspelt_name_is_a_warning(tmp_path: Path) -> None:
    run = Run(tmp_path, TENSOR_PARALEL_SIZE="2")
    assert run.code == 0
    assert run.rows["environment"][0] == "warn"
    assert "TENSOR_PARALLEL_SIZE" in run.rows["environment"][1]


@needs("vllm")
def test_an_engine_beside_the_python_that_runs_need_not_be_on_the_path(tmp_path: Path) -> None:
    run = Run(tmp_path, PATH="/usr/bin:/bin")
    assert run.code == 0
    assert str(Path(sys.executable).with_name("vllm")) in run.rows["engine"][1]


def test_an_engine_of_someone_else_must_answer(tmp_path: Path) -> None:
    with FakeEngine("--served-model-name", "theirs") as engine:
        there = Run(tmp_path, UPSTREAM_URL=engine.url)
    assert there.code == 0
    assert there.rows["engine"] == ["ok", f"{engine.url} is healthy and serves theirs."]
    with FakeEngine("--api-key", "theirs") as engine:
        wants_key = Run(tmp_path, UPSTREAM_URL=engine.url, SERVED_MODEL_NAME="mine")
    assert (wants_key.code, wants_key.rows["engine"][0]) == (1, "fail")
    assert "/v1/models answered 401" in wants_key.rows["engine"][1]
    gone = Run(tmp_path, UPSTREAM_URL=engine.url)
    assert (gone.code, gone.rows["engine"][0]) == (1, "fail")


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        # Each is read by a call of its own.
        ({"API_KEYS_FILE": "/nowhere"}, "API_KEYS_FILE='/nowhere': "),
        ({"VLLM_EXTRA_ARGS": "--port 1"}, "VLLM_EXTRA_ARGS: --port is not allowed"),
        ({"PROTOCOLS": "mine.ollama:Ollama"}, "PROTOCOLS=mine.ollama:Ollama: the module"),
        ({"LOG_FILE": "/proc/nowhere/log"}, "LOG_FILE='/proc/nowhere/log': "),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    tmp_path: Path, environ: dict[str, str], says: str
) -> None:
    run = Run(tmp_path, **environ)
    assert (run.code, run.out) == (2, "")
    (line,) = run.err.splitlines()
    assert line.startswith(says)


@pytest.mark.parametrize("arguments", [("chek",), ("chek", "--fast"), ("keys", "a", "b")])
def test_an_unknown_command_is_one_line_and_exit_code_2(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    run = Run(tmp_path, *arguments)
    assert (run.code, run.out) == (2, "")
    (line,) = run.err.splitlines()
    assert line.startswith("unknown command: ")
    assert "check" in line


LONG = Finding("model", Result.FAIL, "word " * 40, "Set this " * 30)


def test_a_table_fits_its_terminal() -> None:
    lines = list(table([LONG, Finding("x", Result.OK, "fine")], 60))
    assert max(map(len, lines)) <= 60
    assert sum(line.split()[0] == "->" for line in lines) == 1


def test_a_table_for_a_file_has_one_line_for_each_sentence() -> None:
    assert len(list(table([LONG], None))) == 3


def test_colours_say_the_result_and_move_no_column() -> None:
    findings = [Finding("port", Result.FAIL, "It is taken."), Finding("disk", Result.OK, "Fine.")]
    plain, coloured = list(table(findings, None)), list(table(findings, None, in_colour=True))
    assert coloured[1] == plain[1].replace("fail  ", "\x1b[31mfail  \x1b[0m")
    assert coloured[2] == plain[2].replace("ok    ", "\x1b[32mok    \x1b[0m")


def test_a_terminal_that_is_hardly_one_still_gets_a_table() -> None:
    assert list(table([LONG], 5))


@pytest.mark.parametrize(
    ("environ", "result"),
    [
        ({"TENSOR_PARALLEL_SIZE": "2"}, Result.OK),
        ({"TENSOR_PARALLEL_SIZE": "4"}, Result.WARN),
        ({"TENSOR_PARALLEL_SIZE": "2", "PIPELINE_PARALLEL_SIZE": "2"}, Result.WARN),
        ({"TENSOR_PARALLEL_SIZE": "4", "NNODES": "2"}, Result.OK),
    ],
)
def test_gpus_that_are_missing_may_be_on_other_machines(
    environ: dict[str, str], result: Result
) -> None:
    here = Hardware((Gpu("NVIDIA X", 2**34),) * 2, "570")
    assert hardware_finding(Settings.load(environ), here).result is result


def test_models_that_can_never_be_together_are_one_line(tmp_path: Path) -> None:
    run = Run(tmp_path, MODEL_NAME="demo,demo-text", MEMORY_BUDGET_GIB="1")
    assert run.code == 2
    assert run.err.count("\n") == 1
    assert "MEMORY_BUDGET_GIB=1: demo takes 3.0 GiB of the machine's memory" in run.err
