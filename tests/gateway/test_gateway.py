"""Real LiteLLM in front of the sidecar, with the configurations of deploy/gateway.

The engines behind the sidecars are fake ones; the rest is what is deployed. One process imports
LiteLLM and each gateway is a fork of it: that is why all of this is one file. What stands in for an
executable of Prisma's is in database.py.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from math import isclose
from pathlib import Path
from typing import NamedTuple

import openai
import pytest

from tests.engine.service import Line, wait_until
from tests.fake_engine import FakeEngine
from tests.gateway.database import Postgres
from tests.gateway.litellm import (
    MASTER_KEY,
    ForkServer,
    LiteLLM,
    config,
    fork_server,
    price,
)
from tests.patience import PATIENCE
from tests.ports import free_ports
from tests.wire.service import Sidecar

SIDECAR_KEY = "sk-of-the-gateway-at-the-sidecar"
# A preset's name and its repository: clients may use both at the sidecar.
NAMES = ("qwen2.5-0.5b", "Qwen/Qwen2.5-0.5B-Instruct")
(NAME, _) = NAMES
LARGER = "qwen2.5-1.5b"
OUTSIDE = "gpt-4o-mini"
ANTHROPICS = "claude-sonnet-4-5"
PROMPT = "What do you see?"
TOKENS = 5
UI_PASSWORD = "of-the-user-interface"
SPENT = """
    SELECT spend, (SELECT coalesce(sum(spend), 0) FROM "LiteLLM_SpendLogs" WHERE api_key = token)
    FROM "LiteLLM_VerificationToken" WHERE token = '{}'
"""


def stream(gateway: LiteLLM, model: str = NAME, key: str = MASTER_KEY, prompt: str = PROMPT) -> str:
    """The text of one streamed chat."""
    chunks = gateway.openai(key).chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": prompt}],
        max_tokens=TOKENS,
        stream=True,
    )
    texts = [choice.delta.content for chunk in chunks for choice in chunk.choices]
    return "".join(text for text in texts if text)


def generations(sidecar: Sidecar) -> list[Line]:
    """The sidecar's lines of generations, once each request that came has its line."""
    return [line for line in sidecar.access_lines() if line["route"] != "models"]


def new_line(sidecar: Sidecar, before: int) -> Line:
    """The one line that came since there were `before` of them."""
    (line,) = generations(sidecar)[before:]
    return line


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    with fork_server(tmp_path_factory.mktemp("forks")) as server:
        yield server


@pytest.fixture(scope="module")
def sidecar(forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """It starts while LiteLLM is imported."""
    folder = tmp_path_factory.mktemp("sidecar")
    with (
        FakeEngine("--served-model-name", *NAMES) as engine,
        Sidecar(folder, engine, API_KEYS=f"gateway:{SIDECAR_KEY}") as sidecar,
    ):
        sidecar.client.headers["authorization"] = f"Bearer {SIDECAR_KEY}"
        sidecar.wait_until_ready()
        yield sidecar


def place(sidecar: Sidecar, model: str = NAME) -> dict[str, str]:
    """Where LiteLLM finds the one sidecar."""
    return {
        "SIDECAR_URL": f"{sidecar.url}/v1",
        "SIDECAR_API_KEY": SIDECAR_KEY,
        "GATEWAY_MODEL": model,
        "GATEWAY_LITELLM_MODEL": f"openai/{model}",
    }


# The database: first, as it starts while LiteLLM is imported --------------------------------------


class WithDatabase(NamedTuple):
    """LiteLLM with its database, and the sidecar."""

    gateway: LiteLLM
    database: Postgres
    sidecar: Sidecar

    def new_key(self, alias: str, max_budget: float) -> str:
        """A key, made as docs/gateway.md says."""
        asked = {"key_alias": alias, "max_budget": max_budget, "budget_duration": "30d"}
        answer = self.gateway.client.post("/key/generate", json=asked).raise_for_status()
        return str(answer.json()["key"])

    def shown(self, key: str) -> float:
        """What LiteLLM says that a key has spent."""
        answer = self.gateway.client.get("/key/info", params={"key": key}).raise_for_status()
        return float(answer.json()["info"]["spend"])

    def kept(self, key: str) -> tuple[float, float]:
        """The same in PostgreSQL: at the key, and the sum of its requests."""
        token = hashlib.sha256(key.encode()).hexdigest()  # LiteLLM keeps no keys
        (row,) = self.database.rows(SPENT.format(token))
        of_key, of_requests = map(float, row)
        return of_key, of_requests

    def stream(self, key: str) -> float:
        """One streamed chat through both, and what it costs by the configuration."""
        before = len(generations(self.sidecar))
        assert stream(self.gateway, key=key)
        line = new_line(self.sidecar, before)
        assert (line["outcome"], line["stream"], line["key"]) == ("ok", True, "gateway")
        return price(line["prompt_tokens"], line["completion_tokens"])

    def refusal(self, key: str) -> dict[str, str] | None:
        """What a stream is refused with; then the sidecar is not asked."""
        before = len(generations(self.sidecar))
        try:
            self.stream(key)
        except openai.APIStatusError as error:
            refused = error.body
        else:
            return None
        assert len(generations(self.sidecar)) == before
        assert isinstance(refused, dict)
        return refused


@pytest.fixture(scope="module")
def with_database(
    forks: ForkServer, sidecar: Sidecar, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WithDatabase]:
    folder = tmp_path_factory.mktemp("gateway")
    with Postgres() as database:
        environ = place(sidecar) | {"UI_PASSWORD": UI_PASSWORD} | database.environ
        with forks.gateway(folder, config(), **environ) as gateway:
            yield WithDatabase(gateway, database, sidecar)


def test_a_key_streams_until_its_budget_is_spent(with_database: WithDatabase) -> None:
    all_three = with_database
    due = all_three.stream(MASTER_KEY)
    assert due > 0
    # One question is within the budget, and two are not.
    alice, bob = (all_three.new_key(name, max_budget=1.5 * due) for name in ("alice", "bob"))
    assert all_three.shown(alice) == 0
    assert all_three.stream(alice) == due
    wait_until(lambda: isclose(all_three.shown(alice), due), PATIENCE, "the spend")
    # Keys and requests are not written in one go.
    wait_until(
        lambda: all(isclose(each, due) for each in all_three.kept(alice)),
        PATIENCE,
        "the spend in PostgreSQL",
    )

    assert all_three.stream(alice) == due
    # It adds up what was spent a moment after each answer.
    wait_until(lambda: all_three.refusal(alice) is not None, PATIENCE, "the end of the budget")
    wait_until(lambda: all_three.kept(alice)[0] > 1.5 * due, PATIENCE, "the rest in PostgreSQL")
    refused = all_three.refusal(alice)
    assert refused is not None
    assert refused["type"] == "budget_exceeded"
    assert "Budget has been exceeded! Key=alice" in refused["message"]
    assert all_three.stream(bob) == due


@pytest.mark.parametrize(
    ("password", "status"), [(UI_PASSWORD, 303), ("another", 401), (MASTER_KEY, 401)]
)
def test_the_user_interface_asks_for_its_password(
    with_database: WithDatabase, password: str, status: int
) -> None:
    form = {"username": "admin", "password": password}
    assert with_database.gateway.client.post("/login", data=form).status_code == status


# One sidecar --------------------------------------------------------------------------------------


class Both(NamedTuple):
    """LiteLLM and the sidecar behind it."""

    gateway: LiteLLM
    sidecar: Sidecar

    def lines(self) -> list[Line]:
        return generations(self.sidecar)


@pytest.fixture(scope="module")
def both(
    forks: ForkServer, sidecar: Sidecar, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Both]:
    given = config()
    # The same model once more, with a budget of its own: enough for one question.
    local, *_ = given["model_list"]
    limits = {"max_budget": price(1, 1), "budget_duration": "1d"}
    metered = {"model_name": "metered", "litellm_params": local["litellm_params"] | limits}
    given["model_list"].append(metered)
    with forks.gateway(tmp_path_factory.mktemp("gateway"), given, **place(sidecar)) as gateway:
        yield Both(gateway, sidecar)


def test_the_model_has_its_own_name(both: Both) -> None:
    names = {model.id for model in both.gateway.openai().models.list()}
    assert names == {NAME, "metered"}, "the providers' are answered without being listed"


def test_openai_streams_through_both(both: Both) -> None:
    before = len(both.lines())
    assert stream(both.gateway)
    line = new_line(both.sidecar, before)
    assert (line["outcome"], line["stream"], line["key"]) == ("ok", True, "gateway")
    assert (line["model"], line["completion_tokens"]) == (NAME, TOKENS)


def test_anthropic_streams_through_both(both: Both) -> None:
    before = len(both.lines())
    with both.gateway.anthropic().messages.stream(
        model=NAME, max_tokens=20, messages=[{"role": "user", "content": PROMPT}]
    ) as events:
        answer = events.get_final_message()
    line = new_line(both.sidecar, before)
    # LiteLLM translates it: the sidecar is asked in OpenAI's words.
    assert (line["outcome"], line["route"], line["stream"]) == ("ok", "responses", True)
    assert (answer.usage.input_tokens, answer.usage.output_tokens) == (
        line["prompt_tokens"],
        line["completion_tokens"],
    )


def test_an_answer_has_its_price(both: Both) -> None:
    answer = both.gateway.openai().chat.completions.with_raw_response.create(
        model=NAME, messages=[{"role": "user", "content": PROMPT}], max_tokens=TOKENS
    )
    usage = answer.parse().usage
    assert usage is not None
    due = price(usage.prompt_tokens, usage.completion_tokens)
    assert float(answer.headers["x-litellm-response-cost"]) == pytest.approx(due)


def test_what_the_sidecar_refuses_comes_back_with_its_words(
    forks: ForkServer, sidecar: Sidecar, tmp_path: Path
) -> None:
    with (
        forks.gateway(tmp_path, config(), **place(sidecar, "nobody")) as gateway,
        pytest.raises(openai.NotFoundError, match="The model `nobody` does not exist"),
    ):
        stream(gateway, "nobody")


def test_a_name_that_the_gateway_does_not_have_is_refused(both: Both) -> None:
    before = len(both.lines())
    with pytest.raises(openai.BadRequestError, match="nobody"):
        stream(both.gateway, "nobody")
    assert len(both.lines()) == before


def test_who_is_over_the_budget_is_refused_and_the_sidecar_is_not_asked(both: Both) -> None:
    def refused() -> bool:
        try:
            stream(both.gateway, "metered")
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
        stream(both.gateway, key="sk-somebody-else")
    assert len(both.lines()) == before


# The answer cache ---------------------------------------------------------------------------------


def test_without_a_cache_the_same_request_is_answered_anew(both: Both) -> None:
    before = len(both.lines())
    for _ in range(2):
        stream(both.gateway, prompt="Twice?")
    assert len(both.lines()) == before + 2


def test_with_the_cache_the_same_request_is_answered_once(
    forks: ForkServer, sidecar: Sidecar, tmp_path: Path
) -> None:
    with forks.gateway(tmp_path, config(), **place(sidecar), GATEWAY_CACHE="true") as gateway:
        before = len(generations(sidecar))
        first = stream(gateway, prompt="Once?")
        new_line(sidecar, before)
        # It keeps an answer a moment after it was given.
        wait_until(lambda: hit(gateway, "Once?"), PATIENCE, "an answer from the cache")
        before = len(generations(sidecar))
        assert stream(gateway, prompt="Once?") == first
        assert len(generations(sidecar)) == before
        assert stream(gateway, prompt="And another?")
        new_line(sidecar, before)
        body = question("Once?") | {"cache": {"no-cache": True}}
        gateway.client.post("/v1/chat/completions", json=body).raise_for_status()
        assert len(generations(sidecar)) == before + 2


def question(prompt: str) -> dict[str, object]:
    return {
        "model": NAME,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": TOKENS,
        "stream": True,
    }


def hit(gateway: LiteLLM, prompt: str) -> bool:
    """Does a stream come from the cache; its headers name the entry then."""
    answer = gateway.client.post("/v1/chat/completions", json=question(prompt)).raise_for_status()
    return "x-litellm-cache-key" in answer.headers


# Two models and one from outside ------------------------------------------------------------------


class TwoModels(NamedTuple):
    """LiteLLM, a sidecar for each model, and what stands for the provider outside."""

    gateway: LiteLLM
    sidecars: dict[str, Sidecar]
    outside: FakeEngine


@pytest.fixture(scope="module")
def two_models(forks: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoModels]:
    folders = {name: tmp_path_factory.mktemp(name) for name in (NAME, LARGER)}
    with (
        FakeEngine("--served-model-name", NAME) as engine,
        FakeEngine("--served-model-name", LARGER) as other_engine,
        FakeEngine("--served-model-name", OUTSIDE, ANTHROPICS) as outside,
        Sidecar(folders[NAME], engine) as sidecar,
        Sidecar(folders[LARGER], other_engine) as other,
    ):
        sidecars = {NAME: sidecar, LARGER: other}
        for each in sidecars.values():
            each.wait_until_ready()
        urls = {
            "MODEL_1_URL": f"{sidecar.url}/v1",
            "MODEL_2_URL": f"{other.url}/v1",
            "OPENAI_BASE_URL": f"{outside.url}/v1",
        }
        given = config("two-models.yaml")
        with forks.gateway(tmp_path_factory.mktemp("gateway"), given, **urls) as gateway:
            yield TwoModels(gateway, sidecars, outside)


def test_all_three_are_listed_by_their_names(two_models: TwoModels) -> None:
    names = {model.id for model in two_models.gateway.openai().models.list()}
    assert names == {NAME, LARGER, OUTSIDE}


@pytest.mark.parametrize("name", [NAME, LARGER])
def test_each_model_is_answered_by_its_sidecar(two_models: TwoModels, name: str) -> None:
    before = {each: len(generations(two_models.sidecars[each])) for each in (NAME, LARGER)}
    assert stream(two_models.gateway, name)
    assert new_line(two_models.sidecars[name], before.pop(name))["model"] == name
    ((other, count),) = before.items()
    assert len(generations(two_models.sidecars[other])) == count


def test_the_outside_model_is_answered_outside(two_models: TwoModels) -> None:
    before = {name: len(generations(each)) for name, each in two_models.sidecars.items()}
    assert stream(two_models.gateway, OUTSIDE)
    (asked,) = [
        each for each in two_models.outside.requests() if each.target.endswith("completions")
    ]
    assert asked.header("authorization") == ["Bearer none"], "not the sidecar's key"
    assert {name: len(generations(each)) for name, each in two_models.sidecars.items()} == before


def test_beside_one_sidecar_all_models_of_the_providers_are_answered_outside(
    forks: ForkServer, sidecar: Sidecar, two_models: TwoModels, tmp_path: Path
) -> None:
    outside = two_models.outside
    before, asked = len(generations(sidecar)), len(outside.requests())
    urls = {"OPENAI_BASE_URL": f"{outside.url}/v1", "ANTHROPIC_BASE_URL": outside.url}
    with forks.gateway(tmp_path, config(), **place(sidecar), **urls) as gateway:
        assert stream(gateway, OUTSIDE)
        assert stream(gateway, ANTHROPICS)
    bodies = [json.loads(each.body) for each in outside.requests()[asked:] if each.body]
    assert [body["model"] for body in bodies] == [OUTSIDE, ANTHROPICS]
    assert len(generations(sidecar)) == before


def test_the_small_model_answers_for_the_larger_one_that_is_down(
    forks: ForkServer, two_models: TwoModels, tmp_path: Path
) -> None:
    small = two_models.sidecars[NAME]
    before = len(generations(small))
    urls = {
        "MODEL_1_URL": f"{small.url}/v1",
        "MODEL_2_URL": f"http://127.0.0.1:{free_ports(1)[0]}/v1",
    }
    with forks.gateway(tmp_path, config("two-models.yaml"), **urls) as gateway:
        answer = gateway.openai().chat.completions.create(
            model=LARGER, messages=[{"role": "user", "content": PROMPT}], max_tokens=TOKENS
        )
        assert new_line(small, before)["model"] == answer.model == NAME
        assert stream(gateway, LARGER)
        # The other way round there is none.
        urls["MODEL_1_URL"], urls["MODEL_2_URL"] = urls["MODEL_2_URL"], urls["MODEL_1_URL"]
    with (
        forks.gateway(tmp_path, config("two-models.yaml"), **urls) as gateway,
        pytest.raises(openai.APIStatusError),
    ):
        stream(gateway, NAME)
