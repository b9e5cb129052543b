"""LiteLLM's SDK, as people use it. Prints what it got as JSON; its environment is its own.

.cache/bench/litellm/bin/python tests/engine/clients/with_litellm.py http://127.0.0.1:8000
"""

from __future__ import annotations

import json
import sys
from typing import Any, Literal

import litellm
from pydantic import BaseModel

MESSAGES = [{"role": "user", "content": "What do you see?"}]
TOKENS = 12


class Answer(BaseModel):
    """On which side it is."""

    side: Literal["left", "right"]


PARAMETERS = {
    "type": "object",
    "properties": {"side": {"type": "string", "enum": ["left", "right"]}},
    "required": ["side"],
    "additionalProperties": False,
}
LOOK = {
    "type": "function",
    "function": {"name": "look", "strict": True, "parameters": PARAMETERS},
}


def main(url: str) -> dict[str, Any]:
    place: dict[str, Any] = {
        "model": "hosted_vllm/demo",
        "api_base": f"{url}/v1",
        "api_key": "none",
        "num_retries": 0,
    }

    def ask(max_tokens: int, **more: Any) -> Any:
        return litellm.completion(
            messages=MESSAGES, max_tokens=max_tokens, temperature=0, **place, **more
        )

    chunks = list(ask(TOKENS, stream=True, stream_options={"include_usage": True}))
    calls = ask(200, tools=[LOOK], tool_choice="required").choices[0].message.tool_calls
    answer = ask(200, response_format=Answer).choices[0].message.content
    try:
        refused = str(litellm.embedding(input=["Hello"], **place))
    except (litellm.NotFoundError, litellm.BadRequestError) as error:
        refused = str(error)
    return {
        "chat": ask(TOKENS).usage.completion_tokens,
        "chunks": len(chunks),
        "stream": chunks[-1].usage.completion_tokens,
        "tool": [call.function.name for call in calls or ()],
        "structured": Answer.model_validate_json(answer).side,
        "refused": refused,
    }


if __name__ == "__main__":
    litellm.suppress_debug_info = True
    json.dump(main(sys.argv[1]), sys.stdout)
