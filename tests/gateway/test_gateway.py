"""Real LiteLLM in front of the sidecar: names, streams, prices, a budget that ends.

Without a database. What needs one, keys of users and their spend, is in test_budget.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import openai
import pytest

from tests.engine.service import Line, wait_until
from tests.fake_engine import FakeEngine
from tests.gateway.litellm import LiteLLM, config, price
from tests.patience import PATIENCE
from tests.test_deployment import compose
from tests.wire.service import Sidecar

ROOT = Path(__file__).resolve().parents[2]
SIDECAR_KEY = "sk-of-the-gateway-at-the-sidecar"
NAMES = ("tiny", "small")
PROMPT = "What do you see?"
TOKENS = 5


class Both(NamedTuple):
    """LiteLLM and the sidecar behind it."""

    gateway: LiteLLM
    sidecar: Sidecar

    def lines(self) -> list[Line]:
        return [line for line in self.sidecar.lines("proxy.access") if line["route"] != "models"]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("gateway")
    given = config()
    # The same models once more, with a budget of their own: enough for one question.
    (local,) = (each for each in given["model_list"] if each["model_name"] == "local/*")
    limits = {"max_budget": price(1, 1), "budget_duration": "1d"}
    metered = {"model_name": "metered/*", "litellm_params": local["litellm_params"] | limits}
    given["model_list"].append(metered)
    with (
        FakeEngine("--served-model-name", *NAMES) as engine,
        Sidecar(folder, engine, API_KEYS=f"gateway:{SIDECAR_KEY}") as sidecar,
    ):
        sidecar.wait_until_ready()
        place = {"SIDECAR_URL": f"{sidecar.url}/v1", "SIDECAR_API_KEY": SIDECAR_KEY}
        with LiteLLM(folder, given, **place) as gateway:
            yield Both(gateway, sidecar)


def test_names_are_those_that_the_sidecar_serves(both: Both) -> None:
    names = {model.id for model in both.gateway.openai().models.list()}
    assert names >= {f"local/{name}" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_openai_streams_through_both(both: Both, name: str) -> None:
    before = len(both.lines())
    chunks = both.gateway.openai().chat.completions.create(
        model=f"local/{name}",
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=TOKENS,
        stream=True,
    )
    texts = [choice.delta.content for chunk in chunks for choice in chunk.choices]
    assert len([text for text in texts if text]) == TOKENS
    wait_until(lambda: len(both.lines()) > before, PATIENCE, "its line")
    line = both.lines()[before]
    assert (line["outcome"], line["stream"], line["key"]) == ("ok", True, "gateway")
    assert (line["model"], line["completion_tokens"]) == (name, TOKENS)


def test_anthropic_streams_through_both(both: Both) -> None:
    before = len(both.lines())
    with both.gateway.anthropic().messages.stream(
        model="local/tiny", max_tokens=20, messages=[{"role": "user", "content": PROMPT}]
    ) as stream:
        answer = stream.get_final_message()
    wait_until(lambda: len(both.lines()) > before, PATIENCE, "its line")
    (line,) = both.lines()[before:]
    # LiteLLM translates it: the sidecar is asked in OpenAI's words.
    assert (line["outcome"], line["route"], line["stream"]) == ("ok", "responses", True)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (
        line["prompt_tokens"],
        line["completion_tokens"],
    )


def test_an_answer_has_its_price(both: Both) -> None:
    answer = both.gateway.openai().chat.completions.with_raw_response.create(
        model="local/tiny", messages=[{"role": "user", "content": PROMPT}], max_tokens=TOKENS
    )
    usage = answer.parse().usage
    assert usage is not None
    due = price(usage.prompt_tokens, usage.completion_tokens)
    assert float(answer.headers["x-litellm-response-cost"]) == pytest.approx(due)


def test_what_the_engine_refuses_comes_back_with_its_words(both: Both) -> None:
    with pytest.raises(openai.NotFoundError, match="The model `nobody` does not exist"):
        both.gateway.openai().chat.completions.create(
            model="local/nobody", messages=[{"role": "user", "content": PROMPT}]
        )


def test_who_is_over_the_budget_is_refused_and_the_sidecar_is_not_asked(both: Both) -> None:
    client = both.gateway.openai()

    def refused() -> bool:
        try:
            list(
                client.chat.completions.create(
                    model="metered/tiny",
                    messages=[{"role": "user", "content": PROMPT}],
                    max_tokens=TOKENS,
                    stream=True,
                )
            )
        except openai.RateLimitError as error:
            return "budget" in str(error)
        return False

    # It adds up what was spent a moment after each answer.
    wait_until(refused, PATIENCE, "the end of the budget")
    before = len(both.lines())
    assert refused()
    assert len(both.lines()) == before


def test_without_a_good_key_the_sidecar_is_not_asked(both: Both) -> None:
    before = len(both.lines())
    with pytest.raises(openai.APIStatusError):
        both.gateway.openai("sk-somebody-else").chat.completions.create(
            model="local/tiny", messages=[{"role": "user", "content": PROMPT}]
        )
    assert len(both.lines()) == before


# What is shipped


def test_compose_gives_the_gateway_what_its_configuration_reads() -> None:
    services = compose()["services"]
    gateway, database = services["gateway"], services["gateway-db"]
    assert gateway["profiles"] == database["profiles"] == ["gateway"]
    text = (ROOT / "deploy/gateway/litellm.yaml").read_text()
    read = set(re.findall(r"os\.environ/(\w+)", text))
    assert read <= set(gateway["environment"])
    port = services["sidecar"]["environment"]["PORT"]
    assert gateway["environment"]["SIDECAR_URL"] == f"http://sidecar:{port}/v1"
    (volume,) = gateway["volumes"]
    assert f"--config={volume.split(':')[1]}" in gateway["command"]
    assert all(published.startswith("127.0.0.1:") for published in gateway["ports"])
    assert "ports" not in database


def test_example_names_the_variables_that_compose_takes() -> None:
    example = (ROOT / "deploy/gateway/env.example").read_text()
    named = set(re.findall(r"^(\w+)=$", example, re.MULTILINE))
    services = compose()["services"]
    values = [*services["gateway"]["environment"].values()]
    values += services["gateway-db"]["environment"].values()
    assert named == {name for value in values for name in re.findall(r"\$\{(\w+):-", value)}


def test_image_is_of_the_version_that_is_tested() -> None:
    image = compose()["services"]["gateway"]["image"]
    pinned = re.search(r"litellm\[proxy\]==(\S+?)\"", (ROOT / "bench/install-peers.sh").read_text())
    assert pinned is not None
    assert image.endswith(f":{pinned[1]}")
