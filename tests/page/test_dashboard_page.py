"""`/dashboard` in real Chromium, in front of a sidecar that runs.

With SCREENSHOTS=docs/images the pictures of the documents are made anew.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from urllib.parse import urlsplit

import pytest
from PIL import Image

from tests.engine.service import Service
from tests.fake_engine import FakeEngine, x_fake
from tests.monitoring import exporter, traffic
from tests.page.browser import Chromium, Tab, every_screen, photograph
from tests.page.front import in_front
from tests.patience import PATIENCE
from tests.ports import free_ports
from tests.proxy.engine.living import Start, starting
from tests.wire.service import Sidecar

ROWS = "document.querySelectorAll('#requests tbody tr')"
EVIL = "<img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def engine() -> Iterator[FakeEngine]:
    names = ("--disable-uvicorn-access-log", "--served-model-name", "tiny", "second")
    with FakeEngine(*names) as engine:
        yield engine


@pytest.fixture
def service(tmp_path: Path, engine: FakeEngine) -> Iterator[Sidecar]:
    engine.reset()
    with Sidecar(tmp_path, engine) as service:
        service.wait_until_ready()
        yield service


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with starting(tmp_path, folder) as started:
        yield started


def show(tab: Tab, service: Service) -> None:
    tab.open(f"{service.url}/dashboard")


# What it shows ----------------------------------------------------------------------------------


def test_it_says_how_the_engine_is_and_asks_nobody_else(tab: Tab, service: Sidecar) -> None:
    show(tab, service)
    tab.sees("ready", "#badge")
    tab.sees("tiny", "#model")
    tab.sees("None yet.")
    tab.until("Number(document.querySelector('#rate').innerText) === 0")
    hosts = {urlsplit(url).netloc for url in tab.asked if not url.startswith("data:")}
    assert hosts == {f"127.0.0.1:{service.port}"}
    assert tab.complaints == []


def test_a_request_becomes_a_row_with_its_times(tab: Tab, service: Sidecar) -> None:
    headers = x_fake(tokens=20, first_ms=200, interval_ms=10)
    body = traffic.STREAM
    began = monotonic()
    service.client.post("/v1/chat/completions", json=body, headers=headers)
    most_ms = (monotonic() - began) * 1000
    show(tab, service)
    tab.until(f"{ROWS}.length === 1")
    row = tab.words("#requests tbody tr")
    assert "chat · tiny" in row
    assert "200 ok" in row
    assert "14 → 20" in row
    (kept,) = service.client.get("/info/requests").json()["requests"]
    assert tab.words("#ttft") == tab.run(f"ms({kept['ttft_ms']})")
    assert 200 <= kept["ttft_ms"] <= most_ms
    parts = "[...document.querySelectorAll('.bar span')].map(e => [e.className, e.offsetWidth])"
    widths = dict(tab.run(parts))
    spent = {part: kept["split_ms"][part] for part in ("waiting", "generating")}
    assert min(spent.values()) > 0
    a_ms = sum(widths.values()) / sum(kept["split_ms"].values())
    for part, part_ms in spent.items():
        assert widths[part] == pytest.approx(part_ms * a_ms, abs=2)
    assert tab.complaints == []


def test_rates_are_those_of_the_last_seconds(tab: Tab, service: Sidecar) -> None:
    show(tab, service)
    tab.until("document.querySelector('#rate').innerText === '0.0'")
    for _ in range(30):
        assert traffic.ask(service, "/v1/chat/completions", traffic.CHAT, tokens=10) == 200
    tab.until("Number(document.querySelector('#rate').innerText) > 1")
    tab.until("Number(document.querySelector('#tokens').innerText) > 10")
    tab.until("document.querySelectorAll('#rate-line polyline[points]').length === 1")


def test_what_clients_send_stays_text(tab: Tab, service: Sidecar) -> None:
    traffic.ask(service, "/v1/chat/completions", traffic.CHAT | {"model": EVIL})
    service.client.get("/" + EVIL)
    show(tab, service)
    tab.sees(EVIL, "#requests")
    assert tab.run("document.querySelectorAll('#requests img').length") == 0
    assert tab.run("document.title") != "owned"
    assert tab.complaints == []


def test_a_failed_start_is_shown_with_its_remedy(tab: Tab, start: Start) -> None:
    service = start(MODEL_NAME="/models/no-such-folder")
    service.wait_for("failed", PATIENCE)
    show(tab, service)
    tab.sees("failed", "#badge")
    tab.sees("/models/no-such-folder does not exist", "#reason")
    tab.sees("MODEL_NAME", "#remedy")
    photograph(tab, "dashboard-failed")


def test_a_start_is_shown_as_it_goes_on(tab: Tab, start: Start) -> None:
    service = start(FAKE_ENGINE_HANG_AT="cache")
    service.wait_for("compiling", PATIENCE)
    show(tab, service)
    tab.sees("compiling", "#badge")
    assert tab.run("document.querySelector('#badge').classList.contains('busy')")


def test_a_sidecar_that_is_gone_is_told_and_found_again(tab: Tab, service: Sidecar) -> None:
    show(tab, service)
    tab.sees("ready", "#badge")
    service.process.kill()
    service.process.wait()
    tab.sees("does not answer")
    service.restart()
    tab.until("document.querySelector('#silent').hidden")


def test_metrics_on_another_port_are_told(tab: Tab, engine: FakeEngine, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with Sidecar(tmp_path, engine, METRICS_PORT=str(port)) as service:
        service.wait_until_ready()
        show(tab, service)
        tab.sees("METRICS_PORT")
        tab.sees("ready", "#badge")


def test_gpus_are_shown(tab: Tab, service: Sidecar) -> None:
    gauges = exporter.page(missing_from=service.page())
    with in_front(service, more_metrics=gauges) as address:
        tab.open(f"{address}/dashboard")
        tab.sees("80 %", "#gpus")
        tab.sees("GPU 0, 76 of 80 GiB, 64 °C", "#gpus")
        tab.sees("GPU 1, 70 of 80 GiB, 41 °C", "#gpus")
        tab.sees("0 wait in the engine, KV cache 0 %", "#flight-note")


# Asking the model -------------------------------------------------------------------------------


def test_a_question_with_a_picture_is_answered(tab: Tab, service: Sidecar, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64), "red").save(picture)
    service.engine.script("/v1/chat/completions", tokens=3, text="Red ", interval_ms=50)
    show(tab, service)
    tab.sees("ready", "#badge")
    tab.choose("#picture", picture)
    tab.until("document.querySelector('#preview').naturalWidth === 64")
    tab.write("#question", "What colour?")
    tab.click("#send")
    tab.sees("First token after", "#answer-note")
    assert tab.words("#answer").strip() == "Red Red Red"
    tab.until(f"{ROWS}.length === 1")
    (row,) = service.client.get("/info/requests").json()["requests"]
    assert (row["images"], row["stream"], row["completion_tokens"]) == (1, True, 3)
    assert tab.complaints == []


def test_an_error_of_the_engine_is_told(tab: Tab, service: Sidecar) -> None:
    service.engine.script("/v1/chat/completions", status=400)
    show(tab, service)
    tab.sees("ready", "#badge")
    tab.write("#question", "Hi")
    tab.click("#send")
    tab.until("document.querySelector('#answer-note').classList.contains('bad')")
    assert tab.run("document.querySelector('#send').disabled") is False


def test_an_answer_can_be_stopped(tab: Tab, service: Sidecar) -> None:
    service.engine.script("/v1/chat/completions", tokens=1000, stall_at=5)
    show(tab, service)
    tab.sees("ready", "#badge")
    tab.write("#question", "Hi")
    tab.click("#send")
    tab.until("document.querySelector('#answer').innerText.length > 5")
    tab.click("#stop")
    tab.sees("Stopped.", "#answer-note")
    tab.sees("client_closed", "#requests")


# The key ----------------------------------------------------------------------------------------


def test_it_asks_for_a_key_and_keeps_it_for_the_tab(
    chromium: Chromium, tab: Tab, service: Sidecar
) -> None:
    with in_front(service, key="sk-right") as address:
        tab.open(f"{address}/dashboard")
        tab.sees("wants an API key")
        tab.write("#key", "sk-wrong")
        tab.click("#door button")
        tab.sees("not accepted")
        tab.write("#key", "sk-right")
        tab.click("#door button")
        tab.until("document.querySelector('#door').hidden")
        tab.sees("ready", "#badge")
        tab.open(f"{address}/dashboard")
        tab.sees("tiny", "#model")
        tab.write("#question", "Hi")
        tab.click("#send")
        tab.sees("First token after", "#answer-note")
        assert "sk-right" not in json.dumps(tab.asked)
        with chromium.tab() as other:
            other.open(f"{address}/dashboard")
            other.sees("wants an API key")


HELD_BACK = """(() => {
  const ask = window.fetch;
  const later = new Promise((resolve) => { window.letGo = resolve; });
  window.fetch = async (...asked) => {
    const answer = await ask(...asked);
    if (answer.status === 401) { window.isHeld = true; await later; }
    return answer;
  };
})()"""


def test_a_good_key_outlives_a_refusal_of_what_was_asked_before_it(
    tab: Tab, service: Sidecar
) -> None:
    with in_front(service, key="sk-right") as address:
        tab.open(f"{address}/dashboard")
        tab.sees("wants an API key")
        tab.run(HELD_BACK)
        tab.until("window.isHeld")
        tab.write("#key", "sk-right")
        tab.click("#door button")
        tab.sees("ready", "#badge")
        tab.run("window.letGo()")
        polls = tab.run("seen.polls")
        tab.until(f"seen.polls > {polls}")
        assert tab.run("document.querySelector('#door').hidden")
        assert tab.run("sessionStorage.getItem('sidecar.key')") == "sk-right"


def test_the_door_is_still_there_for_who_has_fetched_the_key_from_another_tab(
    tab: Tab, service: Sidecar
) -> None:
    with in_front(service, key="sk-right") as address:
        tab.open(f"{address}/dashboard")
        tab.sees("wants an API key")
        tab.run("Object.defineProperty(document, 'hidden', {get: () => true, configurable: true})")
        tab.run("refresh()")
        assert not tab.run("document.querySelector('#door').hidden")


def test_a_key_is_not_called_bad_where_nobody_has_looked_at_it(tab: Tab, service: Sidecar) -> None:
    with in_front(service, key="sk-right") as address:
        tab.open(f"{address}/dashboard")
        tab.sees("wants an API key")
        tab.run("window.fetch = () => Promise.reject(new TypeError('no network'))")
        tab.write("#key", "sk-right")
        tab.click("#door button")
        tab.sees("does not answer")
        assert tab.run("document.querySelector('#refused').hidden")
        assert tab.run("sessionStorage.getItem('sidecar.key')") == "sk-right"


# The look of it ---------------------------------------------------------------------------------


# Pixels of each bar that no part of the time takes.
UNFILLED = """[...document.querySelectorAll('.bar')].map(bar =>
  bar.getBoundingClientRect().width -
  [...bar.children].reduce((sum, part) => sum + part.getBoundingClientRect().width, 0))"""


def test_it_fits_every_screen_in_every_light(tab: Tab, service: Sidecar) -> None:
    gauges = exporter.page(missing_from=service.page())
    with in_front(service, more_metrics=gauges) as address:
        tab.open(f"{address}/dashboard")
        traffic.ordinary(service, 5)
        traffic.errors(service)
        tab.sees("client_closed", "#requests")
        tab.until("Number(document.querySelector('#tokens').innerText) > 0")
        for screen, width in every_screen(tab):
            assert tab.run("document.documentElement.scrollWidth") <= width
            assert max(tab.run(UNFILLED)) < 1
            photograph(tab, f"dashboard-{screen}")
    assert tab.complaints == []
