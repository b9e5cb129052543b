"""Who is inside, what the engine owes them, and who is lost when it dies."""

from __future__ import annotations

import pytest

from proxy.access.poison import PoisonGuard
from proxy.access.routes import Route
from proxy.errors import Source
from proxy.relay import in_flight as in_flight_module
from proxy.relay.in_flight import InFlightRequests
from proxy.telemetry.record import Outcome, Record

PATH = "/v1/chat/completions"
BODY: list[bytes | bytearray] = [b'{"messages":', bytearray(b"[]}")]


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(in_flight_module, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def guard() -> PoisonGuard:
    return PoisonGuard(enabled=True)


@pytest.fixture
def in_flight(guard: PoisonGuard, now: list[float]) -> InFlightRequests:
    return InFlightRequests(guard)


def entered(
    in_flight: InFlightRequests, name: str = "", body: list[bytes | bytearray] = BODY
) -> Record:
    """A request that has come to the engine."""
    record = Record("POST", PATH, Route.CHAT, request_id=name)
    in_flight.begin(record)
    in_flight.attach_body(record, body)
    record.body_read = record.sent = 1.0
    return record


def ended(in_flight: InFlightRequests, record: Record, outcome: Outcome = Outcome.OK) -> None:
    if outcome is not Outcome.OK:
        record.fail(outcome, Source.UPSTREAM, "")
    record.finish()
    in_flight.end(record)


def names(in_flight: InFlightRequests) -> list[str]:
    return [lost.record.request_id for lost in in_flight.pop_lost()]


def test_the_engine_owes_an_answer_from_the_last_byte_sent_to_the_last_byte_got(
    in_flight: InFlightRequests,
) -> None:
    record = Record("POST", PATH, Route.CHAT)
    in_flight.begin(record)
    assert in_flight.owed == 0, "its body is still on its way to us"
    record.body_read = 1.0
    assert in_flight.owed == 0
    record.sent = 2.0
    assert in_flight.owed == 1
    record.last_byte = 3.0
    assert in_flight.owed == 0
    ended(in_flight, record)


def test_an_upload_that_is_piped_is_owed_nothing_until_it_is_over(
    in_flight: InFlightRequests,
) -> None:
    record = Record("POST", PATH, Route.AUDIO)
    in_flight.begin(record)
    record.sent = 1.0
    assert in_flight.owed == 0


def test_progress_is_the_newest_token_or_event_of_a_stream_also_of_one_that_is_over(
    in_flight: InFlightRequests,
) -> None:
    assert in_flight.last_progress == 0
    first, second = entered(in_flight), entered(in_flight)
    assert in_flight.last_progress == 0
    first.token_event(5.0)
    second.token_event(4.0)
    assert in_flight.last_progress == 5
    second.last_event = 6.0
    ended(in_flight, second, Outcome.CLIENT_CLOSED)
    assert in_flight.last_progress == 6


@pytest.mark.parametrize(
    ("route", "method", "outcome", "tokens", "counts"),
    [
        (Route.CHAT, "POST", Outcome.OK, None, True),
        (Route.CHAT, "POST", Outcome.ENGINE_ERROR, None, False),
        (Route.CHAT, "POST", Outcome.CLIENT_ERROR, None, False),
        # What vLLM's server answers without its core.
        (Route.TOKENIZE, "POST", Outcome.OK, None, False),
        (Route.RESPONSES, "GET", Outcome.OK, 7, False),
        (Route.RESPONSES, "POST", Outcome.OK, None, False),
        (Route.RESPONSES, "POST", Outcome.OK, 7, True),
        (Route.EXTRA, "POST", Outcome.OK, 7, True),
    ],
)
def test_progress_is_the_end_of_an_answer_that_the_core_must_have_made(
    in_flight: InFlightRequests,
    route: Route,
    method: str,
    outcome: Outcome,
    tokens: int | None,
    counts: bool,
) -> None:
    record = Record(method, PATH, route, body_read=1.0, sent=1.0)
    in_flight.begin(record)
    record.completion_tokens = tokens
    record.last_byte = 7.0
    ended(in_flight, record, outcome)
    assert in_flight.last_progress == (7 if counts else 0)


def test_the_oldest_is_the_first_sent_that_is_not_answered(in_flight: InFlightRequests) -> None:
    assert (in_flight.oldest or 0) == 0
    in_flight.begin(Record("POST", PATH, Route.CHAT))
    assert (in_flight.oldest or 0) == 0, "it was never sent"
    first, second = entered(in_flight), entered(in_flight)
    second.sent = 2.0
    assert in_flight.oldest == 1
    first.last_byte = 3.0
    assert in_flight.oldest == 2
    ended(in_flight, second)
    in_flight.begin(Record("GET", "/v1/realtime", Route.REALTIME, sent=4.0))
    assert in_flight.oldest == 4


def test_a_request_that_never_came_in_may_end(in_flight: InFlightRequests) -> None:
    ended(in_flight, Record("POST", PATH, Route.CHAT), Outcome.ENGINE_DIED)
    assert in_flight.pop_lost() == []


@pytest.mark.parametrize("outcome", Outcome)
def test_lost_are_those_that_the_engine_broke_off_just_before(
    in_flight: InFlightRequests, now: list[float], outcome: Outcome
) -> None:
    ended(in_flight, entered(in_flight, "a"), outcome)
    now[0] += 10
    lost = outcome in (Outcome.ENGINE_DIED, Outcome.ENGINE_ERROR)
    assert names(in_flight) == (["a"] if lost else [])


def test_lost_are_not_those_that_failed_long_before(
    in_flight: InFlightRequests, now: list[float]
) -> None:
    ended(in_flight, entered(in_flight), Outcome.ENGINE_ERROR)
    now[0] += 16
    assert in_flight.pop_lost() == []


def test_lost_are_those_that_are_still_inside_and_nobody_is_lost_twice(
    in_flight: InFlightRequests,
) -> None:
    records = [entered(in_flight, name) for name in "ab"]
    assert names(in_flight) == ["a", "b"]
    for record in records:
        ended(in_flight, record, Outcome.ENGINE_DIED)
    assert in_flight.pop_lost() == []


def test_lost_are_not_those_that_the_engine_never_saw(in_flight: InFlightRequests) -> None:
    record = Record("POST", PATH, Route.CHAT)
    in_flight.begin(record)
    assert in_flight.pop_lost() == []
    ended(in_flight, record, Outcome.ENGINE_DIED)
    assert in_flight.pop_lost() == []


def test_a_websocket_session_is_lost_too(in_flight: InFlightRequests) -> None:
    record = Record("GET", "/v1/realtime", Route.REALTIME, sent=1.0)
    in_flight.begin(record)
    ((lost, fingerprint),) = in_flight.pop_lost()
    assert (lost, fingerprint) == (record, None)


def test_a_fingerprint_is_of_method_path_and_body_however_it_is_cut(
    in_flight: InFlightRequests,
) -> None:
    prints: list[object] = []
    bodies: list[list[bytes | bytearray]] = [BODY, [b'{"messages":[]}'], [b'{"messages":[1]}'], []]
    for body in bodies:
        ended(in_flight, entered(in_flight, body=body), Outcome.ENGINE_DIED)
        prints += [lost.fingerprint for lost in in_flight.pop_lost()]
    assert prints[0] == prints[1] != prints[2]
    assert prints[3] is None
    other = Record("POST", "/v1/completions", Route.COMPLETIONS)
    in_flight.begin(other)
    in_flight.attach_body(other, BODY)
    other.sent = 1.0
    ((_, fingerprint),) = in_flight.pop_lost()
    assert fingerprint not in prints


def test_without_a_guard_nothing_is_hashed() -> None:
    in_flight = InFlightRequests(PoisonGuard(enabled=False))
    ended(in_flight, entered(in_flight), Outcome.ENGINE_DIED)
    assert [lost.fingerprint for lost in in_flight.pop_lost()] == [None]


def die(in_flight: InFlightRequests, guard: PoisonGuard) -> None:
    guard.died(lost.fingerprint for lost in in_flight.pop_lost() if lost.fingerprint)


@pytest.mark.parametrize(
    ("outcome", "cleared"), [(Outcome.OK, True), (Outcome.CLIENT_CLOSED, False)]
)
def test_a_request_that_is_answered_is_cleared(
    in_flight: InFlightRequests, guard: PoisonGuard, outcome: Outcome, cleared: bool
) -> None:
    ended(in_flight, entered(in_flight), Outcome.ENGINE_DIED)
    die(in_flight, guard)
    ended(in_flight, entered(in_flight), outcome)
    assert guard.active is not cleared


def test_nothing_is_kept_of_requests_that_are_over(in_flight: InFlightRequests) -> None:
    kept = ("_inside", "_bodies", "_suspects", "_reported", "_lost")

    def held() -> int:
        return sum(len(getattr(in_flight, name)) for name in kept)

    for outcome in (Outcome.OK, Outcome.CLIENT_CLOSED, Outcome.ENGINE_ERROR):
        ended(in_flight, entered(in_flight), outcome)
        in_flight.pop_lost()
        assert held() == 0
    record = entered(in_flight)
    in_flight.pop_lost()
    ended(in_flight, record)
    assert held() == 0


@pytest.mark.parametrize("place", [0, 4095, 3_995_904 * 31 // 63, 3_999_999])
def test_large_bodies_are_told_apart_by_their_length_and_samples(
    in_flight: InFlightRequests, guard: PoisonGuard, place: int
) -> None:
    body = bytearray(b"x" * 4_000_000)
    other = bytearray(body)
    other[place] ^= 1
    for each in (body, other, body + b"x"):
        entered(in_flight, body=[b"{", each])
    prints = [lost.fingerprint for lost in in_flight.pop_lost()]
    assert len(set(prints)) == 3
    entered(in_flight, body=[b"{", bytes(body)])
    assert in_flight.pop_lost()[0].fingerprint == prints[0]


def test_no_more_than_a_quarter_of_a_megabyte_of_a_part_is_digested(
    in_flight: InFlightRequests, monkeypatch: pytest.MonkeyPatch
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

    monkeypatch.setattr("proxy.relay.in_flight.hashlib.blake2b", Digest)
    entered(in_flight, body=[bytearray(30_000_000)])
    in_flight.pop_lost()
    assert digested <= 256 * 1024 + 100
