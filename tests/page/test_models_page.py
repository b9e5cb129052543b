"""The part of `/dashboard` that is there with several models, in real Chromium."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.service import Service
from tests.page.browser import Chromium, Tab, every_screen, photograph
from tests.patience import PATIENCE
from tests.wire.several import several

KEY, ADMIN = "sk-bob", "sk-ops-0123456789"


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Two models, of which one may be loaded at a time."""
    environ = {
        "MAX_LOADED_MODELS": "1",
        "SWAP_MAX_WAIT_SECONDS": "1",
        "ADMIN_KEYS": f"ops:{ADMIN}",
    }
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


def button(name: str, number: int) -> str:
    """A selector: the first loads or unloads, the second pins or unpins."""
    return f"{row(name)} button:nth-child({number})"


def visible(selector: str) -> str:
    """An expression; `innerText` of what is hidden is not empty."""
    return f"document.querySelector('{selector}')?.checkVisibility()"


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
    tab.sees("ago", row("two"))
    assert tab.run("document.querySelector('#which').value") == "two", "a poll leaves it"
    assert not [each for each in tab.complaints if "401" not in each], "but for the key"


def test_an_order_needs_an_admin_key_that_stays_in_the_tab(
    chromium: Chromium, tab: Tab, pod: Service
) -> None:
    show(tab, pod)
    assert not tab.run(visible(button("one", 1)))
    tab.click("#steer")
    tab.click(button("one", 2))
    tab.until(visible("#admin"))
    assert not tab.run(visible("#admin-refused"))
    tab.write("#admin-key", "sk-wrong")
    tab.click("#admin button")
    tab.until(visible("#admin-refused"))
    tab.write("#admin-key", ADMIN)
    tab.click("#admin button")
    # The order that was refused is sent again, and a pinned model is loaded.
    in_state(tab, "one", "ready, pinned")
    assert not tab.run(visible("#admin"))
    tab.click(button("one", 2))
    in_state(tab, "one", "ready")
    assert ADMIN not in json.dumps(tab.asked)
    tab.open(f"{pod.url}/dashboard")
    tab.until(visible(button("one", 1)))
    with chromium.tab() as other:
        show(other, pod)
        other.click("#steer")
        other.click(button("one", 1))
        other.until(visible("#admin"))
    tab.click("#forget")
    tab.until(visible("#door"))
    assert tab.run("sessionStorage.length") == 0


def test_models_are_loaded_and_unloaded_by_buttons_that_keep_the_focus(
    tab: Tab, pod: Service
) -> None:
    show(tab, pod)
    tab.run(f"sessionStorage.setItem('sidecar.admin-key', {json.dumps(ADMIN)})")
    tab.click("#steer")
    in_state(tab, "one", "ready")
    tab.run(f"document.querySelector('{button('one', 1)}').focus()")
    assert tab.run("document.activeElement.ariaLabel") == "Unload one"
    tab.click(button("one", 1))
    in_state(tab, "one", "unloaded")
    assert tab.run("document.activeElement.ariaLabel") == "Load one", "a poll leaves the focus"
    tab.click(button("one", 1))
    in_state(tab, "one", "ready")
    tab.click(button("one", 2))
    in_state(tab, "one", "ready, pinned")
    tab.click(button("one", 1))
    tab.sees("one: A pinned model is not unloaded; unpin it first.", "#steer-note")
    tab.click(button("one", 2))
    in_state(tab, "one", "ready")
    assert not tab.run(visible("#steer-note"))


def test_an_order_from_elsewhere_without_admin_keys_is_refused_in_the_sidecars_words(
    tab: Tab, tmp_path: Path
) -> None:
    with several(tmp_path) as pod:
        pod.wait_until_listening()
        show(tab, pod)
        tab.click("#steer")
        tab.call("Network.setExtraHTTPHeaders", headers={"x-forwarded-for": "10.0.0.7"})
        tab.click(button("one", 2))
        tab.sees("one: Without ADMIN_KEYS only this machine may do this", "#steer-note")
        assert not tab.run(visible("#admin"))
        tab.call("Network.setExtraHTTPHeaders", headers={})
        tab.click(button("one", 2))
        tab.sees("pinned", f"{row('one')} .outcome")
        assert not tab.run(visible("#steer-note"))


def test_a_row_says_what_a_model_takes_and_when_it_was_used(tab: Tab, pod: Service) -> None:
    show(tab, pod)
    model = {
        "name": "one",
        "status": "ready",
        "gpus": [2, 3],
        "memory_bytes": 19_864_223_744,
        "last_used_seconds_ago": 125.0,
        "in_flight": 0,
        "waiting": 4,
        "pinned": True,
    }
    # In one expression, so that no poll comes between.
    cells = tab.run(
        f"(showModels([{json.dumps(model)}]),"
        " [...document.querySelectorAll('#model-rows td')].slice(0, 6).map(e => e.textContent))"
    )
    assert cells == ["one", "ready, pinned", "18.5 GiB", "2 min 5 s ago", "0", "4"]


def test_it_fits_every_screen_in_every_light(tab: Tab, pod: Service) -> None:
    show(tab, pod)
    tab.click("#steer")
    for screen, width in every_screen(tab):
        assert tab.run("document.documentElement.scrollWidth") <= width
        photograph(tab, f"dashboard-models-{screen}")
