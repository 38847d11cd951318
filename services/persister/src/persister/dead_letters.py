"""A dead letter as it is filed: what it was, where it died and why, whether or not it can be read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from common.contracts import TaskSubmitted
from common.errors import DecodeError
from common.messaging.settlement import RabbitDelivery
from common.storable import storable_text


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A row of `history.dead_letters`, and the task that must be ended where the letter was one."""

    dead_letter_id: str
    queue: str
    exchange: str
    routing_key: str
    kind: str | None
    task_id: UUID | None
    reason: str
    headers: dict[str, Any]
    body: bytes
    died_at: datetime | None
    task: TaskSubmitted | None = None

    def row(self) -> tuple[Any, ...]:
        """The columns, in the statement's order."""
        place = (self.queue, self.exchange, self.routing_key)
        return (
            self.dead_letter_id,
            *place,
            self.kind,
            self.task_id,
            self.reason,
            self.headers,
            self.body,
            self.died_at,
        )


def read(delivery: RabbitDelivery) -> DeadLetter:
    """Never fails: what cannot be read is what most needs to be filed."""
    message, death = delivery.message, _last_death(delivery.headers)
    queue, reason = _text(death.get("queue")), _text(death.get("reason"))
    task: TaskSubmitted | None = None
    task_id = _uuid(message.correlation_id)
    try:
        contract = delivery.decode()
        task = contract if isinstance(contract, TaskSubmitted) else None
        task_id = getattr(contract, "task_id", task_id)
    except DecodeError as error:
        reason = storable_text(error.reason)
    name = message.message_id or hashlib.sha256(message.body).hexdigest()
    return DeadLetter(
        # One message may die in two queues: it was published once to an exchange that feeds both.
        dead_letter_id=storable_text(f"{queue}/{name}"),
        queue=queue,
        exchange=_text(death.get("exchange")),
        routing_key=", ".join(_text(key) for key in _list(death.get("routing-keys"))),
        kind=storable_text(message.type) if message.type else None,
        task_id=task_id,
        reason=reason,
        headers=_plain(delivery.headers),
        body=message.body,
        died_at=_time(death.get("time")),
        task=task,
    )


def _last_death(headers: Mapping[str, object]) -> Mapping[str, object]:
    """The most recent entry, which the broker puts first."""
    deaths = _list(headers.get("x-death"))
    return deaths[0] if deaths and isinstance(deaths[0], Mapping) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _text(value: object) -> str:
    return storable_text(str(value or "unknown"))


def _uuid(text: str | None) -> UUID | None:
    try:
        return UUID(text)
    except (TypeError, ValueError):
        return None


def _time(value: object) -> datetime | None:
    return value if isinstance(value, datetime) else None


def _plain(value: Any) -> Any:
    """The same as JSON can say it."""
    if isinstance(value, Mapping):
        return {_text(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes | bytearray):
        return value.decode(errors="replace")
    return value if isinstance(value, str | int | float | bool | None) else str(value)
