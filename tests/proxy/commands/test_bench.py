"""`python3 -m proxy bench` against the fake engine, and against endpoints with less than vLLM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from proxy.bench import load
from proxy.bench.plan import Plan
from proxy.bench.result import Run, json_of, read_run
from proxy.commands import bench
from tests.fake_engine import FakeEngine, Received
from tests.patience import PATIENCE
from tests.ports import free_ports
from tests.proxy.bench.test_result import level, run_of, sample
from tests.readme import ROOT
from tests.wire.service import until

CHAT = "/v1/chat/completions"
# Whatever this machine does meanwhile, first tokens come within it.
LENIENT = ("--slo-ttft-ms", str(PATIENCE * 1000))
SHORT = ("--concurrency", "2", "--seconds", "0.3", *LENIENT)
KEY = "sk-secret-0123456789"


@pytest.fixture(scope="module")
def shared_engine() -> Iterator[FakeEngine]:
    with FakeEngine() as engine:
        yield engine


@pytest.fixture
def engine(shared_engine: FakeEngine) -> FakeEngine:
    shared_engine.reset()
    return shared_engine


class Measured:
    """A run in this process: exit code, output, and the result as its file has it."""

    def __init__(
        self, capsys: pytest.CaptureFixture[str], file: Path, *arguments: str, **environ: str
    ) -> None:
        self.code = bench.main(environ, *arguments, "--json", str(file))
        self.out, self.err = capsys.readouterr()
        self.run: Run | None = read_run(str(file)) if file.exists() else None

    @property
    def only_level(self) -> Any:
        assert self.run is not None
        (one,) = self.run.levels
        return one


@pytest.fixture
def measure(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """A run that waits for all requests: an engine on a crowded machine may stand still."""
    monkeypatch.setattr(Plan, "grace_seconds", PATIENCE)
    return lambda *arguments, **environ: Measured(
        capsys, tmp_path / "run.json", *arguments, **environ
    )


def chats(engine: FakeEngine) -> list[Received]:
    return [each for each in engine.requests() if each.target == CHAT]


# What is measured --------------------------------------------------------------------------------


def test_levels_are_measured_and_the_verdict_ends_it(engine: FakeEngine, measure: Any) -> None:
    began = monotonic()
    options = ("--concurrency", "3,1", "--seconds", "0.3", "--output-tokens", "5", *LENIENT)
    done = measure(engine.url, *options, GPU_PRICE_PER_HOUR="2.50")
    most_ms = (monotonic() - began) * 1000
    assert (done.code, done.err) == (0, "")
    assert [one.streams for one in done.run.levels] == [1, 3]
    for one in done.run.levels:
        assert (one.failed, one.unfinished, one.in_time) == (0, 0, 1.0)
        assert one.finished >= one.streams
        assert (one.prompt_tokens, one.completion_tokens) == (14, 5)
        assert 0 < one.ttft_ms.p50 <= one.ttft_ms.p99 <= one.ttft_ms.max <= most_ms
    lines = done.out.splitlines()
    assert lines[0].startswith(f"{engine.url}, model Qwen/Qwen3-0.6B: prompts of 256 tokens")
    assert lines[-1].startswith("3 streams at once, the most that were tried, keep the objective")
    assert "a million generated tokens cost $" in lines[-1]
    assert lines[-1].endswith("(1 GPU at $2.50 an hour).")


def test_the_first_token_is_not_the_role_only_event(engine: FakeEngine, measure: Any) -> None:
    engine.script(CHAT, role_ms=200, tokens=6, interval_ms=20)
    one = measure(engine.url, *SHORT).only_level
    assert one.ttft_ms.p50 >= 200
    assert one.itl_mean_ms.max < one.ttft_ms.p50


def test_streams_are_so_many_at_once(
    engine: FakeEngine, measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer comes before the window closes, so each stream asks once."""
    after_warm_up(engine, monkeypatch, tokens=3, hold_at=1)
    is_closed = threading.Event()

    def closes(_: Plan) -> float:
        is_closed.set()
        return PATIENCE

    def release() -> None:
        is_closed.wait(PATIENCE)
        until(lambda: len(chats(engine)) >= 7, "all requests")
        engine.release()

    monkeypatch.setattr(Plan, "grace_seconds", property(closes))
    releasing = threading.Thread(target=release)
    releasing.start()
    measured = measure(engine.url, "--concurrency", "5", "--seconds", "0.3").only_level
    releasing.join()
    assert (measured.finished, measured.unfinished) == (5, 0)
    asked = chats(engine)[2:]
    assert len(asked) == len({each.connection for each in asked}) == 5


def test_prompts_differ_and_hold_pictures(engine: FakeEngine, measure: Any) -> None:
    measure(engine.url, *SHORT, "--images", "2", "--image-size", "16", "--output-tokens", "9")
    bodies = [json.loads(each.body) for each in chats(engine)]
    contents = [body["messages"][0]["content"] for body in bodies]
    assert all(
        [part["type"] for part in content] == ["image_url", "image_url", "text"]
        for content in contents
    )
    assert len({json.dumps(content) for content in contents}) == len(contents) > 3
    assert bodies[-1]["max_tokens"] == 9
    assert bodies[-1]["ignore_eos"] is True


def test_the_same_prompt_on_wish(engine: FakeEngine, measure: Any) -> None:
    measure(engine.url, *SHORT, "--same-prompt")
    assert len({each.body for each in chats(engine)[2:]}) == 1


def test_the_model_is_the_first_listed_or_the_one_named(engine: FakeEngine, measure: Any) -> None:
    assert measure(engine.url, *SHORT).run.model == "Qwen/Qwen3-0.6B"
    engine.reset()
    done = measure(engine.url, *SHORT, "--model", "other")
    assert (done.code, [each.target for each in engine.requests()]) == (1, [CHAT])
    assert "404" in done.err


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/chat/completions"])
def test_a_url_is_taken_as_clients_have_it(engine: FakeEngine, measure: Any, path: str) -> None:
    assert measure(engine.url + path, *SHORT).run.url == engine.url


def test_without_a_url_it_is_the_sidecar_of_this_machine(engine: FakeEngine, measure: Any) -> None:
    assert measure(*SHORT, PORT=str(engine.port)).run.url == engine.url
    assert measure(*SHORT, SERVICE_PORT=str(engine.port)).run.url == engine.url


# The key -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked_engine() -> Iterator[FakeEngine]:
    with FakeEngine("--api-key", KEY) as engine:
        yield engine


def test_the_key_comes_from_the_environment_or_a_file(
    locked_engine: FakeEngine, measure: Any, tmp_path: Path
) -> None:
    assert measure(locked_engine.url, *SHORT, OPENAI_API_KEY=KEY).code == 0
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n", "utf-8-sig")  # as Windows' editors do
    done = measure(locked_engine.url, *SHORT, "--key-file", str(file), OPENAI_API_KEY="wrong")
    assert done.code == 0
    assert KEY not in done.out + json_of(done.run).decode()


def test_a_lacking_key_is_told_with_what_to_do(locked_engine: FakeEngine, measure: Any) -> None:
    done = measure(locked_engine.url, *SHORT)
    assert (done.code, done.run, done.err.count("\n")) == (1, None, 1)
    assert "401" in done.err
    assert "OPENAI_API_KEY or --key-file" in done.err


def test_a_key_that_comes_back_is_not_shown(engine: FakeEngine, measure: Any) -> None:
    engine.script("/v1/models", status=401, body=json.dumps({"error": {"message": f"no: {KEY}"}}))
    done = measure(engine.url, *SHORT, OPENAI_API_KEY=KEY)
    assert (done.code, KEY in done.err) == (1, False)
    assert "no: ***; is this the right key?" in done.err


# What fails --------------------------------------------------------------------------------------


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "_PAUSE_SECONDS", 0.01)


def after_warm_up(engine: FakeEngine, monkeypatch: pytest.MonkeyPatch, **keys: Any) -> None:
    """The two requests before the first level are answered well."""
    prepare = load.prepare

    async def prepared(*arguments: Any) -> Any:
        result = await prepare(*arguments)
        engine.script(CHAT, **keys)
        return result

    monkeypatch.setattr(bench, "prepare", prepared)


@pytest.mark.parametrize(
    ("script", "kind", "words"),
    [
        ({"status": 429}, "429", ""),
        ({"die": "between_events:3"}, "broken stream", ""),
        ({"die": "before_headers"}, "no answer", "isconnect"),
        ({"no_done": True, "tokens": 3, "die": "between_events:2"}, "broken stream", ""),
        ({"error_event_at": 3}, "error in the stream", "EngineCore"),
        ({"tokens": 0}, "no token", "nothing was generated"),
        ({"status": 302, "headers": [("location", "http://127.0.0.1:9/")]}, "302", ""),
        ({"body": "<html>", "headers": [("content-type", "text/html")]}, "no stream", "text/html"),
    ],
    ids=str,
)
@pytest.mark.usefixtures("no_pause")
def test_failures_are_counted_by_kind(
    engine: FakeEngine,
    measure: Any,
    monkeypatch: pytest.MonkeyPatch,
    script: dict[str, Any],
    kind: str,
    words: str,
) -> None:
    after_warm_up(engine, monkeypatch, **script)
    done = measure(engine.url, *SHORT)
    one = done.only_level
    assert (done.code, one.finished, list(one.errors)) == (1, 0, [kind])
    assert one.failed == one.errors[kind].count >= 2
    assert one.errors[kind].first
    assert words in one.errors[kind].first
    assert f"2 streams: {one.failed} failed ({kind}): {one.errors[kind].first}" in done.out
    assert done.out.splitlines()[-1].startswith("No level keeps the objective")


def test_a_stream_that_is_refused_waits_before_it_asks_again(
    engine: FakeEngine, measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_warm_up(engine, monkeypatch, status=429)
    assert measure(engine.url, *SHORT).only_level.failed == 2


def test_a_level_of_failures_is_the_last(
    engine: FakeEngine, measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    after_warm_up(engine, monkeypatch, status=500)
    done = measure(engine.url, "--concurrency", "1,2,3", "--seconds", "0.2")
    assert [one.streams for one in done.run.levels] == [1]


def test_a_stream_that_does_not_end_is_cut(
    engine: FakeEngine,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    after_warm_up(engine, monkeypatch, stall_at=4)
    options = ("--concurrency", "2", "--seconds", "1")
    done = Measured(capsys, tmp_path / "run.json", engine.url, *options)
    one = done.only_level
    assert (one.finished, one.failed, one.unfinished) == (0, 0, 2)
    assert one.ttft_ms is not None
    assert done.code == 1  # first tokens in time, and not one whole answer
    until(lambda: all(each.aborted for each in chats(engine)[2:]), "streams that are cut")


def test_an_objective_that_no_level_keeps_is_exit_code_1(engine: FakeEngine, measure: Any) -> None:
    engine.script(CHAT, tokens=2, first_ms=50)
    done = measure(engine.url, *SHORT, "--slo-ttft-ms", "40")
    assert (done.code, done.only_level.in_time) == (1, 0)
    assert "the best has 0 % with 2 streams" in done.out


def test_an_endpoint_that_is_not_there_is_one_line(measure: Any) -> None:
    (port,) = free_ports(1)
    done = measure(f"http://127.0.0.1:{port}", *SHORT)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"http://127.0.0.1:{port}/v1/models: Connection refused\n"


def test_what_is_no_openai_endpoint_is_one_line(engine: FakeEngine, measure: Any) -> None:
    engine.script("/v1/models", body="<html>\x1b[31mHello</html>")
    done = measure(engine.url, *SHORT)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "is this an OpenAI endpoint?" in done.err
    engine.script("/v1/models", status=404, body="<html>\x1b[31mHello\n</html>")
    done = measure(engine.url, *SHORT)
    assert done.err == f"{engine.url}/v1/models: 404: <html> [31mHello </html>\n"


def test_proxies_of_the_environment_are_not_used(
    engine: FakeEngine, measure: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_ports(1)[0]}")
    assert measure(engine.url, *SHORT).code == 0


# Endpoints with less than vLLM -------------------------------------------------------------------

_EVENTS = b"".join(
    b'data: {"choices": [{"index": 0, "delta": {"content": "word"}}]}\n\n' for _ in range(4)
)


class Picky(BaseHTTPRequestHandler):
    """Refuses fields, and gives no usage."""

    refused: tuple[str, ...] = ()

    def do_GET(self) -> None:
        self._answer(200, "application/json", b'{"data": [{"id": "small"}]}')

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if names := [name for name in self.refused if name in body]:
            text = json.dumps({"error": {"message": f"Unknown field: {names[0]}"}})
            self._answer(400, "application/json", text.encode())
        else:
            self._answer(200, "text/event-stream", _EVENTS + b"data: [DONE]\n\n")

    def _answer(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def picky() -> Iterator[tuple[type[Picky], str]]:
    handler = type("Handler", (Picky,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield handler, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("refused", "without"),
    [
        ((), ()),
        (("ignore_eos",), ("ignore_eos",)),
        (("ignore_eos", "stream_options"), ("ignore_eos", "stream_options")),
    ],
)
def test_fields_that_it_does_not_take_are_left_out(
    measure: Any, picky: tuple[type[Picky], str], refused: tuple[str, ...], without: tuple[str, ...]
) -> None:
    handler, url = picky
    handler.refused = refused
    done = measure(url, *SHORT)
    assert (done.code, done.run.without) == (0, without)
    assert (f"does not take {', '.join(without)}." in done.out) == bool(without)


def test_without_usage_events_are_counted_and_it_says_so(
    measure: Any, picky: tuple[type[Picky], str]
) -> None:
    done = measure(picky[1], *SHORT)
    assert (done.run.has_usage, done.only_level.completion_tokens) == (False, 4)
    assert "The endpoint gives no usage: each event is counted as a token" in done.out


def test_one_that_takes_nothing_is_told_with_its_first_message(
    measure: Any, picky: tuple[type[Picky], str]
) -> None:
    handler, url = picky
    handler.refused = ("ignore_eos", "messages")
    done = measure(url, *SHORT)
    text = "the first request failed: 400: Unknown field: ignore_eos"
    assert (done.code, done.err) == (1, f"{url}: {text}\n")


# Two runs ----------------------------------------------------------------------------------------


def test_a_run_is_compared_with_one_before_under_the_same_load(
    engine: FakeEngine, measure: Any, tmp_path: Path
) -> None:
    before = tmp_path / "before.json"
    before.write_bytes(json_of(measure(engine.url, *SHORT, "--output-tokens", "7").run))
    done = measure(engine.url, "--compare", str(before))
    assert done.code == 0
    assert [one.streams for one in done.run.levels] == [2]
    assert (done.run.output_tokens, done.run.seconds) == (7, 0.3)
    assert "STREAMS  FIGURE" in done.out
    assert "Not the same load" not in done.out


def test_two_files_are_compared_without_measuring(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    files = [str(tmp_path / name) for name in ("before.json", "after.json")]
    for file, ttft in zip(files, (0.4, 0.3), strict=True):
        Path(file).write_bytes(json_of(run_of(level(sample(ttft)))))
    assert bench.main({}, files[1], "--compare", files[0]) == 0
    out = capsys.readouterr().out
    assert ["4", "TTFT", "p50,", "ms", "400", "300", "0.75"] in map(str.split, out.splitlines())


def test_json_on_stdout_is_nothing_but_json(
    engine: FakeEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.main({}, engine.url, *SHORT, "--json", "-") == 0
    out, err = capsys.readouterr()
    assert (json.loads(out)["levels"][0]["streams"], err) == (2, "")


# As a process ------------------------------------------------------------------------------------


def run_main(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "proxy", "bench", *arguments]
    base = {name: text for name, text in os.environ.items() if not name.startswith("OPENAI_")}
    return subprocess.run(
        command, cwd=ROOT, env={**base, **environ}, capture_output=True, text=True, timeout=PATIENCE
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_what_was_measured(
    engine: FakeEngine, tmp_path: Path, number: signal.Signals
) -> None:
    engine.script(CHAT, tokens=3)
    file = tmp_path / "run.json"
    command = [sys.executable, "-m", "proxy", "bench", engine.url]
    command += ["--concurrency", "2", "--seconds", "300", "--json", str(file)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until(lambda: len(chats(engine)) > 10, "requests")
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (128 + number, "")
    run = read_run(str(file))
    assert run.interrupted
    assert run.levels[0].finished > 0
    assert "Interrupted: the last level is not whole." in out


def test_a_signal_before_the_first_level_is_one_line(engine: FakeEngine) -> None:
    engine.script("/v1/models", hang=True)
    command = [sys.executable, "-m", "proxy", "bench", engine.url]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        until(engine.requests, "a request")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (130, "")
    assert err == "interrupted: nothing was measured\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--concurrency", "0"], "allowed are numbers from 1 to 4096, as 1,8,32"),
        (["--concurrency", "1,x"], "allowed are numbers from 1 to 4096, as 1,8,32"),
        (["--concurrency"], "argument --concurrency: expected one argument"),
        (["--images", "-1"], "allowed is a whole number from 0 to 100"),
        (["--images", "٣"], "allowed is a whole number from 0 to 100"),
        (["--seconds", "nan"], "allowed is a number from 0.1 to 3600"),
        (["--slo-ttft-ms", "soon"], "allowed is a number from"),
        (["--model", " "], "allowed is a name of /v1/models"),
        (["--sedconds", "3"], "unexpected argument: --sedconds; did you mean --seconds?"),
        (["--api-key", KEY], "the key comes from OPENAI_API_KEY or --key-file"),
        ([f"--api-key={KEY}"], "the key comes from OPENAI_API_KEY or --key-file"),
        (["http://127.0.0.1:1", "more"], "unexpected argument: more"),
        (["127.0.0.1:8000"], "allowed is http://HOST:PORT"),
        (["http://127.0.0.1:99999"], "allowed is http://HOST:PORT"),
        (["http://[::1"], "allowed is http://HOST:PORT"),
        (["http://a..b"], "allowed is http://HOST:PORT"),
        (["http://127.0.0.1/?a=b"], "allowed is http://HOST:PORT"),
        ([f"http://me:{KEY}@127.0.0.1"], "the URL has a password"),
        (["--key-file", "none"], "--key-file none: No such file or directory"),
        (["--key-file", "/dev/null"], "it is empty"),
        (["--json", "."], "it is a folder"),
        (["--json", "none/run.json"], "it cannot be written"),
        (["--compare", "none.json"], "none.json: No such file or directory"),
        (["--compare", "pyproject.toml"], "no result of bench"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    from proxy.__main__ import main

    assert main(["bench", *arguments]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert words in err
    assert KEY not in err


def test_a_key_with_blanks_is_not_sent_nor_shown(capsys: pytest.CaptureFixture[str]) -> None:
    from proxy.errors import SettingsError

    with pytest.raises(SettingsError, match="OPENAI_API_KEY: this is no key") as caught:
        bench.main({"OPENAI_API_KEY": f"{KEY}\nx-evil: 1"}, "http://127.0.0.1:1")
    assert KEY not in str(caught.value)


def test_a_wrong_variable_is_one_line() -> None:
    done = run_main(PORT="many")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "PORT" in done.stderr


def test_help_lists_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        bench.main({}, "--help")
    out = capsys.readouterr().out
    assert caught.value.code == 0
    assert "Exit codes: 0 measured" in out
    for name in bench.parser()._option_string_actions:
        assert name in out
