"""The page is static, from here only, and its JSON tells numbers and no words."""

from __future__ import annotations

import re

import pytest

from proxy.engine.phase import Phase
from tests.proxy.house import house

FILES = {
    "/dashboard": "text/html; charset=utf-8",
    "/dashboard/page.css": "text/css; charset=utf-8",
    "/dashboard/page.js": "text/javascript; charset=utf-8",
}


async def text_of(path: str) -> str:
    async with house() as there:
        return (await there.get(path)).text


@pytest.mark.parametrize(("path", "kind"), FILES.items())
async def test_the_page_is_there_whatever_the_engine_does(path: str, kind: str) -> None:
    async with house() as there:
        answers = [await there.get(path)]
        there.enter(Phase.FAILED)
        answers.append(await there.get(path))
    for answer in answers:
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
        assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", FILES)
async def test_a_browser_is_told_to_take_nothing_from_elsewhere_and_nothing_inline(
    path: str,
) -> None:
    async with house() as there:
        answer = await there.get(path)
    policy = dict(
        directive.split(" ", 1)
        for directive in answer.headers["content-security-policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["form-action"] == policy["base-uri"] == "'none'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in str(policy)


@pytest.mark.parametrize("path", FILES)
async def test_no_other_host_is_named(path: str) -> None:
    assert not re.search(r"https?:|[\"'(]//", await text_of(path))


async def test_the_page_asks_for_what_there_is() -> None:
    page, script = await text_of("/dashboard"), await text_of("/dashboard/page.js")
    linked = re.findall(r'(?:href|src)="(dashboard/[^"]+)"', page)
    asked = re.findall(r'(?:asked|read)\("([\w/]+)"', script)
    assert len(linked) == 2
    paths = {"health", "info", "info/requests", "metrics", "models", "v1/chat/completions"}
    assert set(asked) == paths
    async with house() as there:
        for path in (*linked, *asked):
            assert (await there.get(f"/{path}")).status_code in (200, 503), path


async def test_with_a_slash_at_its_end_it_is_found_where_its_links_lead_somewhere() -> None:
    async with house() as there:
        answer = await there.get("/dashboard/")
    assert (answer.status_code, answer.headers["location"]) == (307, "../dashboard")


async def test_every_element_that_the_script_names_is_on_the_page() -> None:
    page, script = await text_of("/dashboard"), await text_of("/dashboard/page.js")
    named = set(re.findall(r'(?:\$|text|showRate)\("([\w-]+)"', script))
    assert len(named) > 25
    assert named <= set(re.findall(r'id="([\w-]+)"', page))


async def test_requests_are_listed_with_numbers_and_without_words() -> None:
    async with house() as there:
        assert (await there.get("/info/requests")).json() == {"requests": []}
        messages = [{"role": "user", "content": "a secret question"}]
        await there.chat(messages=messages)
        answer = await there.get("/info/requests")
        (row,) = answer.json()["requests"]
    assert (row["route"], row["outcome"], row["status"]) == ("chat", "engine_unavailable", 503)
    assert row["seconds_ago"] >= 0
    assert sum(row["split_ms"].values()) == pytest.approx(row["duration_ms"], abs=0.1)
    assert "secret" not in answer.text
    assert "10.0.0.7" not in answer.text


async def test_looking_is_no_request() -> None:
    async with house() as there:
        for path in (*FILES, "/info/requests", "/metrics", "/health"):
            await there.get(path)
        assert (await there.get("/info/requests")).json() == {"requests": []}
        assert there.samples("sidecar_requests_total") == []
