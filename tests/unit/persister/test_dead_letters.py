"""A dead letter can always be filed, whatever its headers and body are."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast
from uuid import uuid4

import pytest
from aio_pika.abc import AbstractIncomingMessage
from hypothesis import given, settings
from hypothesis import strategies as st

from common.messaging.settlement import RabbitDelivery
from persister.dead_letters import DeadLetter, read
from tests.integration.persister.story import Story

DIED = datetime(2026, 3, 1, tzinfo=UTC)
DEATH = {
    "queue": "tasks.free",
    "reason": "delivery_limit",
    "exchange": "tasks",
    "routing-keys": ["free"],
    "count": 1,
    "time": DIED,
}


@dataclass
class _Message:
    """As much of a message as is read."""

    body: bytes = b""
    type: str | None = None
    message_id: str | None = "m-1"
    correlation_id: str | None = None
    headers: dict[str, Any] = field(default_factory=dict)


def _read(message: _Message) -> DeadLetter:
    return read(RabbitDelivery(cast(AbstractIncomingMessage, message)))


def test_a_task_is_known_again() -> None:
    task = Story(uuid4(), uuid4()).submitted()
    letter = _read(_Message(task.encode(), task.kind, headers={"x-death": [DEATH, {"queue": "older"}]}))
    assert (letter.queue, letter.exchange, letter.routing_key) == ("tasks.free", "tasks", "free")
    assert (letter.reason, letter.died_at) == ("delivery_limit", DIED)
    assert (letter.task, letter.task_id) == (task, task.task_id)
    assert letter.dead_letter_id == "tasks.free/m-1"


def test_one_message_that_died_in_two_queues_is_two_letters() -> None:
    here = _read(_Message(headers={"x-death": [DEATH]}))
    there = _read(_Message(headers={"x-death": [{**DEATH, "queue": "events.persister"}]}))
    assert here.dead_letter_id != there.dead_letter_id


def test_without_a_message_id_the_body_is_the_identity() -> None:
    one, same, other = (_read(_Message(body, message_id=None)) for body in (b"a", b"a", b"b"))
    assert one.dead_letter_id == same.dead_letter_id != other.dead_letter_id


def test_the_task_is_named_even_where_the_body_cannot_be_read() -> None:
    task_id = uuid4()
    letter = _read(_Message(b"\xff", "task.submitted", correlation_id=str(task_id)))
    assert letter.task_id == task_id
    assert letter.task is None
    assert letter.reason.startswith("task.submitted: body: ")


@pytest.mark.parametrize("deaths", [None, "nonsense", [], [7], [{}], [{"time": "yesterday", "routing-keys": 3}]])
def test_headers_that_nobody_expects_do_no_harm(deaths: object) -> None:
    letter = _read(_Message(headers={"x-death": deaths}))
    assert (letter.queue, letter.died_at, letter.routing_key) == ("unknown", None, "")


leaves = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.datetimes() | st.decimals()
tables = st.dictionaries(
    st.text(), st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)


@settings(max_examples=40)
@given(tables, st.binary(), st.none() | st.text(), st.none() | st.text())
def test_any_headers_become_json(headers: dict[str, Any], body: bytes, kind: str | None, name: str | None) -> None:
    letter = _read(_Message(body, kind, name, headers=headers))
    json.dumps(letter.headers)
    assert "\x00" not in letter.dead_letter_id + letter.reason + (letter.kind or "")


def test_numbers_that_json_does_not_know_are_text() -> None:
    assert _read(_Message(headers={"price": Decimal("1.5"), "raw": b"\xff"})).headers == {
        "price": "1.5",
        "raw": "\ufffd",
    }
