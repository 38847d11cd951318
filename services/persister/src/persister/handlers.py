"""What the service does with the messages it takes: it writes them down, each batch in one transaction."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import TypeAlias
from uuid import UUID

import structlog

from common.contracts import RunFinished, RunProgressed, TaskSubmitted
from common.errors import DecodeError
from common.messaging.settlement import RabbitDelivery
from common.pipelining import Pipelined
from common.postgres import Pool, acquire, transaction
from persister import conversation_records, metrics, repository, rows
from persister.dead_letters import DeadLetter
from persister.sweeping import cancel_recorded

_log = structlog.get_logger(__name__)
Recorded: TypeAlias = TaskSubmitted | RunProgressed | RunFinished


def read(delivery: RabbitDelivery) -> Recorded:
    """The contract inside. Raises `DecodeError`."""
    contract = delivery.decode()
    if not isinstance(contract, TaskSubmitted | RunProgressed | RunFinished):
        raise DecodeError(f"the persister has no use for a {contract.kind}")
    return contract


async def record(batch: Sequence[Recorded], pool: Pool, timeout: float, redis: Pipelined) -> None:
    """Write a batch down; counted once it is durable."""
    started = time.perf_counter()
    submissions = [message for message in batch if isinstance(message, TaskSubmitted)]
    ends = [message for message in batch if isinstance(message, RunFinished)]
    messages = [*chain.from_iterable(map(rows.given, submissions)), *chain.from_iterable(map(rows.produced, ends))]
    events = [row for message in batch if not isinstance(message, TaskSubmitted) for row in rows.events(message)]
    async with transaction(pool, timeout) as connection:
        await repository.record_tasks(connection, rows.tasks(submissions, ends))
        await conversation_records.record_conversations(connection, rows.conversations(submissions))
        await repository.record_messages(connection, messages)
        await repository.record_events(connection, events)
    await cancel_recorded([task.task_id for task in submissions], pool, timeout, redis)
    await _erase_recorded({message.task_id for message in batch}, pool, timeout)
    metrics.BATCH_MESSAGES.observe(len(batch))
    metrics.BATCH_SECONDS.observe(time.perf_counter() - started)
    metrics.EVENTS.inc(len(events))
    for kind, count in Counter(message.kind for message in batch).items():
        metrics.RECORDED.labels(kind).inc(count)


async def _erase_recorded(tasks: Iterable[UUID], pool: Pool, timeout: float) -> None:
    """What comes late of a conversation that was deleted meanwhile is deleted after it.

    After the transaction that records: whichever of it and the deletion commits first, the other one sees it.
    """
    async with acquire(pool, timeout) as connection:
        await conversation_records.erase_recorded(connection, sorted(tasks))


async def file_dead_letters(letters: Sequence[DeadLetter], pool: Pool, timeout: float, *, bury: bool = False) -> None:
    """File what nobody could handle; `bury`: its tasks have nobody left to end them, and are to be buried."""
    async with transaction(pool, timeout) as connection:
        await repository.file_dead_letters(connection, letters, bury=bury)
    for letter in letters:
        metrics.DEAD_LETTERS.labels(letter.queue).inc()
        _log.error("dead_letter.filed", queue=letter.queue, reason=letter.reason, id=letter.dead_letter_id)
