"""The last requests: bounded, numbers only, and times that add up."""

from __future__ import annotations

import json

import pytest

from proxy.telemetry.recent import SIZE, Recent
from proxy.telemetry.record import Outcome, Record
from tests.proxy.telemetry.records import finished, full


def rows(*records: Record) -> list[dict[str, object]]:
    recent = Recent()
    for record in records:
        recent.add(record)
    return recent.rows()


def split(record: Record) -> dict[str, float]:
    (row,) = rows(record)
    parts = row["split_ms"]
    assert isinstance(parts, dict)
    return parts


def test_the_newest_is_first_and_the_oldest_is_forgotten() -> None:
    records = [finished(request_id=str(number)) for number in range(SIZE + 10)]
    found = [row["request_id"] for row in rows(*records)]
    assert found == [str(number) for number in range(SIZE + 9, 9, -1)]


def test_a_row_says_who_not() -> None:
    secret = {"client": "10.0.0.7", "user_agent": "curl/secret", "path": "/v1/chat?token=secret"}
    (row,) = rows(finished(**secret, model="demo", outcome=Outcome.OK))
    text = json.dumps(row)
    assert "secret" not in text
    assert "10.0.0.7" not in text
    assert row["model"] == "demo"


def test_words_of_clients_are_short() -> None:
    (row,) = rows(finished(model="m" * 100_000))
    assert len(json.dumps(row)) < 2000


def test_the_parts_of_a_stream_add_up_to_how_long_it_took() -> None:
    parts = split(full())
    assert parts == {
        "receiving": 7.0,
        "queued": 3.0,
        "waiting": 87.5,
        "generating": 399.5,
        "sidecar": 1.0,
        "other": 2.0,  # the connection to the engine
    }
    assert sum(parts.values()) == pytest.approx(500)


def test_an_answer_in_one_piece_is_all_generating() -> None:
    parts = split(finished(body_read=100.1, sent=100.1, first_byte=100.4, last_byte=100.5))
    assert parts["generating"] == pytest.approx(400)
    assert parts["waiting"] == 0
    assert sum(parts.values()) == pytest.approx(500)


def test_what_others_made_it_wait_for_has_parts_of_its_own() -> None:
    given = {"waited_seconds": 0.1, "media_seconds": 0.05}
    parts = split(finished(**given, body_read=100.15, sent=100.2, last_byte=100.5))
    assert [parts["queued"], parts["media"]] == pytest.approx([100, 50])
    assert parts["receiving"] == pytest.approx(50)
    assert parts["sidecar"] == pytest.approx(0)
    assert sum(parts.values()) == pytest.approx(500)


def test_a_request_that_never_came_to_the_engine_has_no_part_there() -> None:
    assert split(finished()) == {"receiving": 0.0, "other": 500.0}


def test_an_upload_that_is_piped_is_receiving_until_it_is_there() -> None:
    parts = split(finished(sent=100.0, body_read=100.3, last_byte=100.5))
    assert parts["receiving"] == pytest.approx(300)
    assert parts["generating"] == pytest.approx(200)


@pytest.mark.parametrize("given", [{"sent": 100.4, "body_read": 100.1, "first_token": 100.2}, {}])
def test_no_part_is_negative(given: dict[str, float]) -> None:
    assert min(split(finished(**given)).values()) >= 0
