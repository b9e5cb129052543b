"""Prompts and pictures of the load."""

from __future__ import annotations

import base64
import io
import json
import random

import pytest
from msgspec.structs import replace
from PIL import Image

from proxy.bench.plan import Plan
from proxy.bench.prompt import SHAPES, Prompts, Shape, picture, words_for

PLAN = Plan(url="http://127.0.0.1:8000", image_size=64)


def prompts(plan: Plan = PLAN, shape: Shape = SHAPES[0], words: int = 40) -> Prompts:
    return Prompts(plan, "demo", shape, words)


def test_no_two_prompts_begin_alike() -> None:
    made = prompts()
    texts = [json.loads(made.next())["messages"][0]["content"] for _ in range(200)]
    assert len({tuple(text.split()[:8]) for text in texts}) == 200
    assert {len(text.partition(".")[0].split()) for text in texts} == {40}


def test_the_same_prompt_is_the_same_to_the_byte() -> None:
    made = prompts(replace(PLAN, same_prompt=True, images=1))
    assert made.next() == made.next()


def test_a_request_is_a_stream_of_the_wanted_length_with_usage() -> None:
    body = json.loads(prompts().next())
    assert body["model"] == "demo"
    assert body["max_tokens"] == 128
    assert (body["stream"], body["ignore_eos"]) == (True, True)
    assert body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize(
    ("shape", "without"),
    [
        (SHAPES[0], ()),
        (SHAPES[1], ("ignore_eos",)),
        (SHAPES[2], ("ignore_eos", "stream_options")),
        (SHAPES[3], ("ignore_eos", "max_tokens")),
    ],
)
def test_fields_that_an_endpoint_does_not_take_are_left_out(
    shape: Shape, without: tuple[str, ...]
) -> None:
    made = prompts(shape=shape)
    assert made.without == without
    body = json.loads(made.next())
    assert not body.keys() & set(without)
    assert body[shape[0]] == 128


def test_pictures_are_pictures_and_all_different() -> None:
    content = json.loads(prompts(replace(PLAN, images=3)).next())["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url"] * 3 + ["text"]
    urls = {part["image_url"]["url"] for part in content[:3]}
    assert len(urls) == 3
    for url in urls:
        image = Image.open(io.BytesIO(base64.b64decode(url.partition("base64,")[2])))
        image.load()
        assert (image.size, image.mode) == ((64, 64), "RGB")


def test_a_large_picture_is_few_bytes() -> None:
    assert len(picture(2048, random.Random(0))) < 100_000


@pytest.mark.parametrize(
    ("wanted", "fewer", "more", "words"),
    [
        (256, (16, 40), (100, 208), 124),  # 2 tokens a word, 8 of the template
        (256, (16, 24), (170, 178), 248),  # 1 token a word
        (10, (16, 40), (100, 208), 4),  # less than the template alone
        (256, (16, 40), (16, 40), 232),  # nothing was learnt: a token a word
    ],
)
def test_words_are_found_for_a_number_of_tokens(
    wanted: int, fewer: tuple[int, int], more: tuple[int, int], words: int
) -> None:
    assert words_for(wanted, fewer, more) == words
