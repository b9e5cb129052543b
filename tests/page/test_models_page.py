"""The part of `/dashboard` that is there with several models, in real Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.engine.service import Service
from tests.page.browser import Tab, every_screen, photograph
from tests.patience import PATIENCE
from tests.wire.several import several

KEY = "sk-bob"


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two models, of which one may be loaded at a time."""
    environ = {"MAX_LOADED_MODELS": "1", "SWAP_MAX_WAIT_SECONDS": "1"}
    with several(tmp_path_factory.mktemp("pod"), **environ) as service:
        service.wait_for("ready", PATIENCE)
        yield service


def show(tab: Tab, pod: Service) -> None:
    tab.open(f"{pod.url}/dashboard")
    tab.sees("wants an API key")
    tab.write("#key", KEY)
    tab.click("#door button")
    tab.until("document.querySelectorAll('#model-rows tbody tr').length === 2")


def row(name: str) -> str:
    """A selector."""
    return f"#model-rows tr:nth-child({1 + ('one', 'two').index(name)})"


def in_state(tab: Tab, name: str, words: str) -> None:
    state = f"document.querySelector('{row(name)} .outcome').innerText"
    tab.until(f"{state} === {json.dumps(words)}")


def test_a_model_that_is_chosen_in_the_chat_box_is_loaded_and_answers(
    tab: Tab, pod: Service
) -> None:
    show(tab, pod)
    in_state(tab, "one", "ready")
    in_state(tab, "two", "unloaded")
    tab.sees("1 of 2 ready", "#badge")
    assert tab.run("[...document.querySelector('#which').options].map(e => e.value)") == [
        "one",
        "two",
    ]
    tab.run("document.querySelector('#which').value = 'two'")
    tab.write("#question", "Hi")
    tab.click("#send")
    tab.sees("First token after", "#answer-note")
    in_state(tab, "two", "ready")
    in_state(tab, "one", "unloaded")
    tab.sees("chat · two", "#requests")
    assert tab.run("document.querySelector('#which').value") == "two", "a poll leaves it"
    assert not [each for each in tab.complaints if "401" not in each], "but for the key"


def test_it_fits_every_screen_in_every_light(tab: Tab, pod: Service) -> None:
    show(tab, pod)
    for screen, width in every_screen(tab):
        assert tab.run("document.documentElement.scrollWidth") <= width
        photograph(tab, f"dashboard-models-{screen}")
