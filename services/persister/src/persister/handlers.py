"""What the service does with the messages it takes: it writes them down, each batch in one transaction."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import TypeAlias

import structlog

from common.contracts import RunFinished, RunProgressed, TaskSubmitted
from common.errors import DecodeError
from common.messaging.settlement import RabbitDelivery
from common.postgres import Pool, transaction
from persister import metrics, repository, rows
from persister.dead_letters import DeadLetter

_log = structlog.get_logger(__name__)
Recorded: TypeAlias = TaskSubmitted | RunProgressed | RunFinished


def read(delivery: RabbitDelivery) -> Recorded:
    """The contract inside. Raises `DecodeError`."""
    contract = delivery.decode()
    if not isinstance(contract, TaskSubmitted | RunProgressed | RunFinished):
        raise DecodeError(f"the persister has no use for a {contract.kind}")
    return contract


async def record(batch: Sequence[Recorded], pool: Pool, timeout: float) -> None:
    """Write a batch down; counted once it is durable."""
    started = time.perf_counter()
    submissions = [message for message in batch if isinstance(message, TaskSubmitted)]
    ends = [message for message in batch if isinstance(message, RunFinished)]
    messages = [*chain.from_iterable(map(rows.given, submissions)), *chain.from_iterable(map(rows.produced, ends))]
    events = [row for message in batch if not isinstance(message, TaskSubmitted) for row in rows.events(message)]
    async with transaction(pool, timeout) as connection:
        await repository.record_tasks(connection, rows.tasks(submissions, ends))
        await repository.record_messages(connection, messages)
        await repository.record_events(connection, events)
    await _cancel_recorded(submissions, pool, timeout)
    metrics.BATCH_MESSAGES.observe(len(batch))
    metrics.BATCH_SECONDS.observe(time.perf_counter() - started)
    metrics.EVENTS.inc(len(events))
    for kind, count in Counter(message.kind for message in batch).items():
        metrics.RECORDED.labels(kind).inc(count)


async def _cancel_recorded(submissions: Sequence[TaskSubmitted], pool: Pool, timeout: float) -> None:
    """A cancel of many looks at what is recorded: what was on its way then is cancelled when it comes.

    In a transaction after the one that records: whichever of the two commits first, the other one sees it.
    """
    if submissions:
        async with transaction(pool, timeout) as connection:
            cancelled = await repository.cancel_recorded(connection, [task.task_id for task in submissions])
        metrics.CANCELLED.inc(cancelled)


async def file_dead_letters(letters: Sequence[DeadLetter], pool: Pool, timeout: float, *, bury: bool = False) -> None:
    """File what nobody could handle; `bury`: its tasks have nobody left to end them, and are to be buried."""
    async with transaction(pool, timeout) as connection:
        await repository.file_dead_letters(connection, letters, bury=bury)
    for letter in letters:
        metrics.DEAD_LETTERS.labels(letter.queue).inc()
        _log.error("dead_letter.filed", queue=letter.queue, reason=letter.reason, id=letter.dead_letter_id)
