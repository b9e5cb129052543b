"""`langchain-openai`, as people use it. Prints what it got as JSON; its environment is its own.

.cache/bench/langchain-openai/bin/python tests/engine/clients/with_langchain.py http://127.0.0.1:8000
"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import openai
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel

QUESTION = "What do you see?"
TOKENS = 12


class Answer(BaseModel):
    """On which side it is."""

    side: Literal["left", "right"]


@tool
def look(side: Literal["left", "right"]) -> str:
    """Look to one side."""
    return side


def main(url: str) -> dict[str, Any]:
    place: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}
    short = ChatOpenAI(model="demo", max_completion_tokens=TOKENS, temperature=0, **place)
    long = ChatOpenAI(model="demo", max_completion_tokens=200, temperature=0, **place)
    whole = short.invoke(QUESTION)
    chunks = list(short.stream(QUESTION, stream_usage=True))
    calls = long.bind_tools([look], tool_choice="required", strict=True).invoke(QUESTION).tool_calls
    embeddings = OpenAIEmbeddings(model="demo", check_embedding_ctx_length=False, **place)
    try:
        refused = str(embeddings.embed_query(QUESTION))
    except openai.NotFoundError as error:
        refused = str(error)
    return {
        "chat": whole.usage_metadata["output_tokens"],
        "chunks": len(chunks),
        "stream": [chunk.usage_metadata for chunk in chunks if chunk.usage_metadata][-1][
            "output_tokens"
        ],
        "tool": [call["name"] for call in calls],
        "structured": long.with_structured_output(Answer).invoke(QUESTION).side,
        "refused": refused,
    }


if __name__ == "__main__":
    json.dump(main(sys.argv[1]), sys.stdout)
