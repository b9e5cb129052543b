"""`/v1/models/{model}`, which vLLM lacks, and `/v1/models` for clients of Anthropic's API.

Both are made of the engine's own list, which is what the engine is asked for.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from proxy.access.routes import Route
from proxy.errors import InvalidEngineResponse, ModelNotFound
from proxy.relay.headers import OF_THE_BODY, speaks_anthropic
from proxy.server.exchange import Exchange
from proxy.server.request import Headers, Request

_LIST = b"/v1/models"
_MAX_LIST_BYTES = 16 * 1024 * 1024
_MAX_NAME_CHARS = 200
_MAX_TIME = 253_402_300_799  # the last second of the year 9999


class Question(NamedTuple):
    """What of the list is asked for: one model, or, where `name` is None, all of them."""

    name: str | None
    anthropic: bool


class _Card(msgspec.Struct):
    """A model as vLLM lists it, as far as it is read here."""

    id: str
    created: Any = 0
    max_model_len: Any = None


class _List(msgspec.Struct):
    data: list[msgspec.Raw]


def models_question(request: Request) -> Question | None:
    """None where the engine's own list is what is asked for: that is passed on as it is."""
    anthropic = speaks_anthropic(Route.MODELS, request)
    name = unquote_to_bytes(request.path[len(_LIST) + 1 :]).decode() or None
    return Question(name, anthropic) if name is not None or anthropic else None


def models_answer(engine_list: bytes, question: Question) -> bytes:
    """What is asked for, as JSON. A model in OpenAI's shape is the engine's entry, byte for byte.

    Raises:
        ModelNotFound: the list has no model of that name.
        msgspec.MsgspecError: it is no list of models.
    """
    entries = msgspec.json.decode(engine_list, type=_List).data
    cards = []
    for entry in entries:
        try:
            card = msgspec.json.decode(entry, type=_Card)
        except msgspec.ValidationError:
            continue
        if card.id:  # no model without a name can be asked for
            cards.append((card, entry))
    if entries and not cards:
        raise msgspec.ValidationError("no entry has a name")
    if question.name is None:
        # All on one page, whatever `limit` asks for: there are a few.
        ids = [card.id for card, _ in cards]
        page = {
            "data": [_info(card) for card, _ in cards],
            "has_more": False,
            "first_id": ids[0] if ids else None,
            "last_id": ids[-1] if ids else None,
        }
        return msgspec.json.encode(page)
    for card, entry in cards:
        if card.id == question.name:
            return msgspec.json.encode(_info(card)) if question.anthropic else bytes(entry)
    names = ", ".join(card.id for card, _ in cards)
    text = f"There is no model {question.name[:_MAX_NAME_CHARS]} here. There is: {names}."
    raise ModelNotFound(text, param="model")


def _info(card: _Card) -> dict[str, Any]:
    seconds = card.created if isinstance(card.created, int) else 0
    created = datetime.fromtimestamp(min(max(seconds, 0), _MAX_TIME), UTC)
    return {
        "type": "model",
        "id": card.id,
        "display_name": card.id,
        "created_at": created.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lifecycle": "active",
        "max_input_tokens": card.max_model_len if isinstance(card.max_model_len, int) else None,
    }


class ModelsResponse:
    """The response to such a request. Whatever is no list, such as an error of the engine's, passes
    as it is."""

    # An exchange's way to hand chunks over as they are: there is none.
    write_chunk = None
    target = _LIST

    def __init__(self, exchange: Exchange, question: Question) -> None:
        self._exchange = exchange
        self._question = question
        self._status = 0
        self._head: Headers = []
        self._list = bytearray()

    def pad(self, headers: Headers) -> None:
        """It is never waited for so long."""

    def start(self, status: int, headers: Headers) -> None:
        self._status, self._head = status, headers
        self._list.clear()

    def end(self, data: bytes) -> None:
        self.write(data)
        body = bytes(self._list)
        if self._status == 200:
            try:
                body = models_answer(body, self._question)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                raise InvalidEngineResponse("The engine's list of models cannot be read.") from None
            self._head = [pair for pair in self._head if pair[0] not in OF_THE_BODY]
            self._head += [
                (b"content-type", b"application/json"),
                (b"content-length", b"%d" % len(body)),
            ]
        self._exchange.start(self._status, self._head)
        self._exchange.end(body)

    def write(self, data: bytes) -> None:
        self._list += data
        if len(self._list) > _MAX_LIST_BYTES:
            raise InvalidEngineResponse("The engine's list of models is too long to be read.")
