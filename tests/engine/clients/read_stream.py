"""Reads a stream to its end for each name of a client on stdin.

How it ended is a line of JSON: {} or {"error": "what was raised"}. Each client is imported where it
is asked for: they live in different environments. With RETRIES=1 they try again as they do out of
the box, else not at all.

echo pydantic-ai-responses | .cache/bench/pydantic-ai/bin/python \
    tests/engine/clients/read_stream.py http://127.0.0.1:8000
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Iterable
from typing import Any

QUESTION = "What do you see?"
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
RETRIES: Any = {} if os.environ.get("RETRIES") else {"max_retries": 0}


def read_all(stream: Iterable[Any]) -> None:
    for _ in stream:
        pass


def openai(url: str, name: str) -> None:
    from openai import OpenAI

    with OpenAI(base_url=f"{url}/v1", api_key="none", **RETRIES) as client:
        match name:
            case "openai-chat":
                chat = client.chat.completions
                read_all(chat.create(model="tiny", messages=MESSAGES, stream=True))
            case "openai-chat-helper":
                with client.chat.completions.stream(model="tiny", messages=MESSAGES) as stream:
                    stream.get_final_completion()
            case "openai-completions":
                read_all(client.completions.create(model="tiny", prompt="A", stream=True))
            case "openai-responses":
                read_all(client.responses.create(model="tiny", input="A", stream=True))
            case "openai-responses-helper":
                with client.responses.stream(model="tiny", input="A") as events:
                    events.get_final_response()


def anthropic(url: str, name: str) -> None:
    from anthropic import Anthropic

    with Anthropic(base_url=url, api_key="none", **RETRIES) as client:
        if name == "anthropic-messages":
            read_all(
                client.messages.create(model="tiny", messages=MESSAGES, max_tokens=8, stream=True)
            )
            return
        with client.messages.stream(model="tiny", messages=MESSAGES, max_tokens=8) as stream:
            stream.get_final_message()


def langchain(url: str, name: str) -> None:
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        model="tiny",
        base_url=f"{url}/v1",
        api_key="none",
        **RETRIES,
        use_responses_api=name == "langchain-responses",
    )
    read_all(model.stream(QUESTION))


def pydantic_ai(url: str, name: str) -> None:
    from openai import AsyncOpenAI
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider

    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none", **RETRIES)
    kind: Any = OpenAIResponsesModel if name == "pydantic-ai-responses" else OpenAIChatModel
    agent: Any = Agent(kind("tiny", provider=OpenAIProvider(openai_client=client)))

    async def read() -> None:
        async with agent.run_stream(QUESTION) as run:
            async for _ in run.stream_text(debounce_by=None):
                pass

    asyncio.run(read())


CLIENTS = {
    "openai": openai,
    "anthropic": anthropic,
    "langchain": langchain,
    "pydantic-ai": pydantic_ai,
}


def main(url: str, name: str) -> dict[str, str]:
    package = next(package for package in CLIENTS if name.startswith(f"{package}-"))
    try:
        CLIENTS[package](url, name)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    return {}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(main(sys.argv[1], line.strip())), flush=True)
