"""Contracts as rows, documents as JSON text. Pure: what the repository writes is decided here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from common.contracts import RunFinished, RunProgressed, TaskSubmitted
from common.postgres import to_json

# A run's end may be recorded before its submission is: what it produced is numbered apart from what it was given.
PRODUCED_FROM = 1_000_000
_LONGEST_TITLE = 60


class TaskRow(NamedTuple):
    """A row of `history.tasks`: the columns of its submission, of its end, or of both."""

    task_id: UUID
    tenant_id: UUID
    tier: str
    user_id: str | None = None
    priority: int | None = None
    agent: str | None = None
    requested_model: str | None = None
    input: str | None = None
    max_cost_usd: Decimal | None = None
    metadata: str | None = None
    idempotency_key: str | None = None
    request_hash: str | None = None
    submitted_at: datetime | None = None
    deadline_at: datetime | None = None
    status: str = "queued"
    output: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    usage: str | None = None
    provider: str | None = None
    model: str | None = None
    steps: int | None = None
    attempts: int | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    level: int | None = None
    batch_id: UUID | None = None
    batch_index: int | None = None
    batch_size: int | None = None
    conversation_id: UUID | None = None
    routing: str | None = None
    fallbacks: str | None = None
    structured: bool | None = None
    cached: bool | None = None


class ConversationRow(NamedTuple):
    """A row of `history.conversations`, as far as some of its submissions tell."""

    tenant_id: UUID
    conversation_id: UUID
    user_id: str | None
    title: str
    created_at: datetime
    active_at: datetime


class MessageRow(NamedTuple):
    """A row of `history.messages`."""

    task_id: UUID
    seq: int
    tenant_id: UUID
    step: int
    role: str
    content: str


class EventRow(NamedTuple):
    """A row of `history.events`."""

    task_id: UUID
    tenant_id: UUID
    fence: int
    seq: int
    type: str
    at: datetime
    data: str


def submitted(task: TaskSubmitted) -> TaskRow:
    """The columns that the submission fills."""
    return TaskRow(
        task.task_id,
        task.tenant_id,
        task.tier,
        user_id=task.user_id,
        priority=task.priority,
        agent=task.agent,
        requested_model=task.model,
        input=to_json([{"role": message.role, "content": message.content} for message in task.input]),
        max_cost_usd=task.max_cost_usd,
        metadata=to_json(task.metadata),
        idempotency_key=task.idempotency_key,
        request_hash=task.request_hash,
        submitted_at=task.submitted_at,
        deadline_at=task.deadline_at,
        level=task.level,
        batch_id=task.batch.id if task.batch else None,
        batch_index=task.batch.index if task.batch else None,
        batch_size=task.batch.size if task.batch else None,
        conversation_id=task.conversation_id,
    )


def ended(row: TaskRow | None, run: RunFinished) -> TaskRow:
    """The columns that the end fills, on top of the submission's where the batch has both."""
    return (row or TaskRow(run.task_id, run.tenant_id, run.tier))._replace(
        status=run.status,
        output=run.output,
        error_type=run.error.type if run.error else None,
        error_message=run.error.message if run.error else None,
        usage=run.usage.model_dump_json(),
        provider=run.provider,
        model=run.model,
        routing=to_json(run.routing.model_dump()) if run.routing else None,
        fallbacks=to_json([fallback.model_dump() for fallback in run.fallbacks]),
        structured=run.structured,
        cached=run.cached,
        steps=run.steps,
        attempts=run.attempts,
        started_at=run.started_at,
        finished_at=run.finished_at,
    )


def conversations(submissions: Iterable[TaskSubmitted]) -> list[ConversationRow]:
    """One row for each conversation; its title and its user are those of the first message."""
    found: dict[tuple[UUID, UUID], ConversationRow] = {}
    for task in sorted(submissions, key=lambda task: task.submitted_at):
        if task.conversation_id is None:
            continue
        key = (task.tenant_id, task.conversation_id)
        row = found.get(key)
        if row is None:
            title = title_of(next(message.content for message in task.input if message.role == "user"))
            row = ConversationRow(*key, task.user_id, title, task.submitted_at, task.submitted_at)
        found[key] = row._replace(active_at=task.submitted_at) if row.user_id == task.user_id else row
    return list(found.values())


def title_of(message: str) -> str:
    """A conversation's title from its first message: one line, cut after a word."""
    words = " ".join(message.split())
    if len(words) <= _LONGEST_TITLE:
        return words
    cut = words[:_LONGEST_TITLE]
    whole = cut if words[_LONGEST_TITLE] == " " else cut.rpartition(" ")[0]
    return f"{whole or cut}…"


def given(task: TaskSubmitted) -> Iterator[MessageRow]:
    """The messages that the tenant handed in, in the blocks in which a run keeps its own."""
    for seq, message in enumerate(task.input):
        content = to_json([{"type": "text", "text": message.content}])
        yield MessageRow(task.task_id, seq, task.tenant_id, 0, message.role, content)


def produced(run: RunFinished) -> Iterator[MessageRow]:
    """The messages that the run added."""
    for seq, message in enumerate(run.messages, PRODUCED_FROM):
        yield MessageRow(run.task_id, seq, run.tenant_id, message.step, message.role, to_json(message.content))


def events(run: RunProgressed | RunFinished) -> Iterator[EventRow]:
    """The run's log, as far as this message carries it."""
    for event in run.events:
        yield EventRow(run.task_id, run.tenant_id, event.fence, event.seq, event.type, event.at, to_json(event.data))


def tasks(submissions: Iterable[TaskSubmitted], ends: Iterable[RunFinished]) -> list[TaskRow]:
    """One row for each task; of what is said twice the first counts, as it would in two batches."""
    found: dict[UUID, TaskRow] = {}
    for task in submissions:
        found.setdefault(task.task_id, submitted(task))
    for run in ends:
        row = found.get(run.task_id)
        if row is None or row.finished_at is None:
            found[run.task_id] = ended(row, run)
    return list(found.values())
