"""Who is inside, what the engine owes them, and who is lost when it dies."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from proxy.access.poison import PoisonGuard
from proxy.access.routes import Route
from proxy.errors import PoisonedRequest, Source
from proxy.relay import flights as flights_module
from proxy.relay.flights import Flights
from proxy.telemetry.record import Outcome, Record

PATH = "/v1/chat/completions"
BODY: list[bytes | bytearray] = [b'{"messages":', bytearray(b"[]}")]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(flights_module, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def guard() -> PoisonGuard:
    return PoisonGuard(enabled=True)


@pytest.fixture
def flights(guard: PoisonGuard, now: list[float]) -> Flights:
    return Flights(guard)


def entered(flights: Flights, name: str = "", body: list[bytes | bytearray] = BODY) -> Record:
    """A request that has come to the engine."""
    record = Record("POST", PATH, Route.CHAT, request_id=name)
    flights.begin(record)
    flights.carries(record, body)
    record.body_read = record.sent = 1.0
    return record


def ended(flights: Flights, record: Record, outcome: Outcome = Outcome.OK) -> None:
    if outcome is not Outcome.OK:
        record.fail(outcome, Source.UPSTREAM, "")
    record.finish()
    flights.end(record)


def names(flights: Flights) -> list[str]:
    return [lost.record.request_id for lost in flights.take_lost()]


def test_the_engine_owes_an_answer_from_the_last_byte_sent_to_the_last_byte_got(
    flights: Flights,
) -> None:
    record = Record("POST", PATH, Route.CHAT)
    flights.begin(record)
    assert flights.waiting == 0, "its body is still on its way to us"
    record.body_read = 1.0
    assert flights.waiting == 0
    record.sent = 2.0
    assert flights.waiting == 1
    record.last_byte = 3.0
    assert flights.waiting == 0
    ended(flights, record)


def test_an_upload_that_is_piped_is_owed_nothing_until_it_is_over(flights: Flights) -> None:
    record = Record("POST", PATH, Route.AUDIO)
    flights.begin(record)
    record.sent = 1.0
    assert flights.waiting == 0


def test_progress_is_the_newest_token_or_event_of_a_stream_also_of_one_that_is_over(
    flights: Flights,
) -> None:
    assert flights.last_progress == 0
    first, second = entered(flights), entered(flights)
    assert flights.last_progress == 0
    first.token_event(5.0)
    second.token_event(4.0)
    assert flights.last_progress == 5
    second.last_event = 6.0
    ended(flights, second, Outcome.CLIENT_CLOSED)
    assert flights.last_progress == 6


@pytest.mark.parametrize(
    ("route", "method", "outcome", "tokens", "counts"),
    [
        (Route.CHAT, "POST", Outcome.OK, None, True),
        (Route.EMBEDDINGS, "POST", Outcome.OK, None, True),
        (Route.AUDIO, "POST", Outcome.OK, None, True),
        (Route.CHAT, "POST", Outcome.ENGINE_ERROR, None, False),
        (Route.CHAT, "POST", Outcome.CLIENT_ERROR, None, False),
        # What vLLM's server answers without its core.
        (Route.TOKENIZE, "POST", Outcome.OK, None, False),
        (Route.MODELS, "GET", Outcome.OK, None, False),
        (Route.RESPONSES, "GET", Outcome.OK, 7, False),
        (Route.RESPONSES, "POST", Outcome.OK, None, False),
        (Route.RESPONSES, "POST", Outcome.OK, 7, True),
        (Route.EXTRA, "POST", Outcome.OK, 7, True),
    ],
)
def test_progress_is_the_end_of_an_answer_that_the_core_must_have_made(
    flights: Flights,
    route: Route,
    method: str,
    outcome: Outcome,
    tokens: int | None,
    counts: bool,
) -> None:
    record = Record(method, PATH, route, body_read=1.0, sent=1.0)
    flights.begin(record)
    record.completion_tokens = tokens
    record.last_byte = 7.0
    ended(flights, record, outcome)
    assert flights.last_progress == (7 if counts else 0)


def test_the_oldest_is_the_first_sent_that_is_not_answered(flights: Flights) -> None:
    assert (flights.oldest or 0) == 0
    flights.begin(Record("POST", PATH, Route.CHAT))
    assert (flights.oldest or 0) == 0, "it was never sent"
    first, second = entered(flights), entered(flights)
    second.sent = 2.0
    assert flights.oldest == 1
    first.last_byte = 3.0
    assert flights.oldest == 2
    ended(flights, second)
    flights.begin(Record("GET", "/v1/realtime", Route.REALTIME, status=101, started=4.0))
    assert flights.oldest == 4


def test_a_request_that_never_came_in_may_end(flights: Flights) -> None:
    ended(flights, Record("POST", PATH, Route.CHAT), Outcome.ENGINE_DIED)
    assert flights.take_lost() == []


@pytest.mark.parametrize("outcome", Outcome)
def test_lost_are_those_that_the_engine_broke_off_just_before(
    flights: Flights, now: list[float], outcome: Outcome
) -> None:
    ended(flights, entered(flights, "a"), outcome)
    now[0] += 10
    lost = outcome in (Outcome.ENGINE_DIED, Outcome.ENGINE_ERROR)
    assert names(flights) == (["a"] if lost else [])


def test_lost_are_not_those_that_failed_long_before(flights: Flights, now: list[float]) -> None:
    ended(flights, entered(flights), Outcome.ENGINE_ERROR)
    now[0] += 16
    assert flights.take_lost() == []


def test_lost_are_those_that_are_still_inside_and_nobody_is_lost_twice(flights: Flights) -> None:
    records = [entered(flights, name) for name in "ab"]
    assert names(flights) == ["a", "b"]
    for record in records:
        ended(flights, record, Outcome.ENGINE_DIED)
    assert flights.take_lost() == []


def test_lost_are_not_those_that_the_engine_never_saw(flights: Flights) -> None:
    record = Record("POST", PATH, Route.CHAT)
    flights.begin(record)
    assert flights.take_lost() == []
    ended(flights, record, Outcome.ENGINE_DIED)
    assert flights.take_lost() == []


def test_a_websocket_session_is_lost_too(flights: Flights) -> None:
    record = Record("GET", "/v1/realtime", Route.REALTIME, status=101)
    flights.begin(record)
    ((lost, fingerprint),) = flights.take_lost()
    assert (lost, fingerprint) == (record, None)


def test_a_fingerprint_is_of_method_path_and_body_however_it_is_cut(flights: Flights) -> None:
    prints: list[object] = []
    bodies: list[list[bytes | bytearray]] = [BODY, [b'{"messages":[]}'], [b'{"messages":[1]}'], []]
    for body in bodies:
        ended(flights, entered(flights, body=body), Outcome.ENGINE_DIED)
        prints += [lost.fingerprint for lost in flights.take_lost()]
    assert prints[0] == prints[1] != prints[2]
    assert prints[3] is None
    other = Record("POST", "/v1/completions", Route.COMPLETIONS)
    flights.begin(other)
    flights.carries(other, BODY)
    other.sent = 1.0
    ((_, fingerprint),) = flights.take_lost()
    assert fingerprint not in prints


def test_without_a_guard_nothing_is_hashed() -> None:
    flights = Flights(PoisonGuard(enabled=False))
    ended(flights, entered(flights), Outcome.ENGINE_DIED)
    assert [lost.fingerprint for lost in flights.take_lost()] == [None]


def die(flights: Flights, guard: PoisonGuard) -> None:
    guard.died(lost.fingerprint for lost in flights.take_lost() if lost.fingerprint)


def test_a_request_that_the_engine_died_of_twice_is_not_let_through(
    flights: Flights, guard: PoisonGuard
) -> None:
    for _ in range(2):
        ended(flights, entered(flights), Outcome.ENGINE_DIED)
        die(flights, guard)
    with pytest.raises(PoisonedRequest):
        entered(flights)


@pytest.mark.parametrize(
    ("outcome", "cleared"), [(Outcome.OK, True), (Outcome.CLIENT_CLOSED, False)]
)
def test_a_request_that_is_answered_is_cleared(
    flights: Flights, guard: PoisonGuard, outcome: Outcome, cleared: bool
) -> None:
    ended(flights, entered(flights), Outcome.ENGINE_DIED)
    die(flights, guard)
    ended(flights, entered(flights), outcome)
    assert guard.armed is not cleared


def test_nothing_is_kept_of_requests_that_are_over(flights: Flights) -> None:
    held: Callable[[], int] = lambda: sum(  # noqa: E731
        len(getattr(flights, name)) for name in ("_inside", "_bodies", "_known", "_told", "_lost")
    )
    for outcome in (Outcome.OK, Outcome.CLIENT_CLOSED, Outcome.ENGINE_ERROR):
        ended(flights, entered(flights), outcome)
        flights.take_lost()
        assert held() == 0
    record = entered(flights)
    flights.take_lost()
    ended(flights, record)
    assert held() == 0


@pytest.mark.parametrize("place", [0, 4095, 3_995_904 * 31 // 63, 3_999_999])
def test_large_bodies_are_told_apart_by_their_length_and_samples(
    flights: Flights, guard: PoisonGuard, place: int
) -> None:
    body = bytearray(b"x" * 4_000_000)
    other = bytearray(body)
    other[place] ^= 1
    for each in (body, other, body + b"x"):
        entered(flights, body=[b"{", each])
    prints = [lost.fingerprint for lost in flights.take_lost()]
    assert len(set(prints)) == 3
    entered(flights, body=[b"{", bytes(body)])
    assert flights.take_lost()[0].fingerprint == prints[0]


def test_no_more_than_a_quarter_of_a_megabyte_of_a_part_is_digested(
    flights: Flights, monkeypatch: pytest.MonkeyPatch
) -> None:
    digested = 0

    class Digest:
        def __init__(self, data: bytes, digest_size: int) -> None:
            self.update(data)

        def update(self, data: bytes | memoryview) -> None:
            nonlocal digested
            digested += len(data)

        def digest(self) -> bytes:
            return b""

    monkeypatch.setattr("proxy.relay.flights.hashlib.blake2b", Digest)
    entered(flights, body=[bytearray(30_000_000)])
    flights.take_lost()
    assert digested <= 256 * 1024 + 100
