"""All of the persister's SQL. Each statement takes a whole batch, and finds it already written where it was.

Several persisters write at once, and a task's messages may reach any of them: each statement takes its rows in the
order of their key, and they run in one order, so that two batches wait for each other in one direction only.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg

from common.contracts import RunFinished
from common.ending import Swept
from persister.dead_letters import DeadLetter
from persister.rows import EventRow, MessageRow, TaskRow

if TYPE_CHECKING:
    from common.postgres import Connection

# A submission fills its columns where they are empty, and an end where there was none: an outcome is decided once, so
# the first that is recorded stays.
RECORD_TASKS = """
INSERT INTO history.tasks AS t (task_id, tenant_id, tier, user_id, priority, agent, requested_model, input,
  max_cost_usd, metadata, idempotency_key, request_hash, submitted_at, deadline_at,
  status, output, error_type, error_message, usage, provider, model, steps, attempts, started_at, finished_at,
  level, batch_id, batch_index, batch_size, conversation_id, routing, fallbacks, structured, cached)
SELECT r.task_id, r.tenant_id, r.tier, r.user_id, r.priority, r.agent, r.requested_model, r.input::jsonb,
  r.max_cost_usd, r.metadata::jsonb, r.idempotency_key, r.request_hash, r.submitted_at, r.deadline_at,
  r.status, r.output, r.error_type, r.error_message, r.usage::jsonb, r.provider, r.model, r.steps, r.attempts,
  r.started_at, r.finished_at, r.level, r.batch_id, r.batch_index, r.batch_size,
  r.conversation_id, r.routing::jsonb, r.fallbacks::jsonb, r.structured, r.cached
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::int[], $6::text[], $7::text[], $8::text[],
  $9::numeric[], $10::text[], $11::text[], $12::text[], $13::timestamptz[],
  $14::timestamptz[], $15::text[], $16::text[], $17::text[], $18::text[], $19::text[], $20::text[], $21::text[],
  $22::int[], $23::int[], $24::timestamptz[], $25::timestamptz[], $26::int[], $27::uuid[], $28::int[], $29::int[],
  $30::uuid[], $31::text[], $32::text[], $33::boolean[], $34::boolean[])
  AS r (task_id, tenant_id, tier, user_id, priority, agent, requested_model, input,
  max_cost_usd, metadata, idempotency_key, request_hash, submitted_at, deadline_at,
  status, output, error_type, error_message, usage, provider, model, steps, attempts, started_at, finished_at,
  level, batch_id, batch_index, batch_size, conversation_id, routing, fallbacks, structured, cached)
ORDER BY r.task_id
ON CONFLICT (task_id) DO UPDATE SET
  user_id = coalesce(t.user_id, excluded.user_id),
  priority = coalesce(t.priority, excluded.priority),
  agent = coalesce(t.agent, excluded.agent),
  requested_model = coalesce(t.requested_model, excluded.requested_model),
  input = coalesce(t.input, excluded.input),
  max_cost_usd = coalesce(t.max_cost_usd, excluded.max_cost_usd),
  metadata = coalesce(t.metadata, excluded.metadata),
  idempotency_key = coalesce(t.idempotency_key, excluded.idempotency_key),
  request_hash = coalesce(t.request_hash, excluded.request_hash),
  submitted_at = coalesce(t.submitted_at, excluded.submitted_at),
  deadline_at = coalesce(t.deadline_at, excluded.deadline_at),
  level = coalesce(t.level, excluded.level),
  batch_id = coalesce(t.batch_id, excluded.batch_id),
  batch_index = coalesce(t.batch_index, excluded.batch_index),
  batch_size = coalesce(t.batch_size, excluded.batch_size),
  conversation_id = coalesce(t.conversation_id, excluded.conversation_id),
  status = CASE WHEN t.status = 'queued' THEN excluded.status ELSE t.status END,
  output = CASE WHEN t.status = 'queued' THEN excluded.output ELSE t.output END,
  error_type = CASE WHEN t.status = 'queued' THEN excluded.error_type ELSE t.error_type END,
  error_message = CASE WHEN t.status = 'queued' THEN excluded.error_message ELSE t.error_message END,
  usage = CASE WHEN t.status = 'queued' THEN excluded.usage ELSE t.usage END,
  provider = CASE WHEN t.status = 'queued' THEN excluded.provider ELSE t.provider END,
  model = CASE WHEN t.status = 'queued' THEN excluded.model ELSE t.model END,
  routing = CASE WHEN t.status = 'queued' THEN excluded.routing ELSE t.routing END,
  fallbacks = CASE WHEN t.status = 'queued' THEN excluded.fallbacks ELSE t.fallbacks END,
  structured = CASE WHEN t.status = 'queued' THEN excluded.structured ELSE t.structured END,
  cached = CASE WHEN t.status = 'queued' THEN excluded.cached ELSE t.cached END,
  steps = CASE WHEN t.status = 'queued' THEN excluded.steps ELSE t.steps END,
  attempts = CASE WHEN t.status = 'queued' THEN excluded.attempts ELSE t.attempts END,
  started_at = CASE WHEN t.status = 'queued' THEN excluded.started_at ELSE t.started_at END,
  finished_at = CASE WHEN t.status = 'queued' THEN excluded.finished_at ELSE t.finished_at END
WHERE t.tenant_id = excluded.tenant_id AND (
  t.submitted_at IS NULL AND excluded.submitted_at IS NOT NULL OR t.status = 'queued' AND excluded.status <> 'queued'
)
"""

RECORD_MESSAGES = """
INSERT INTO history.messages (task_id, seq, tenant_id, step, role, content)
SELECT task_id, seq, tenant_id, step, role, content::jsonb
FROM unnest($1::uuid[], $2::int[], $3::uuid[], $4::int[], $5::text[], $6::text[])
  AS r (task_id, seq, tenant_id, step, role, content)
ORDER BY task_id, seq
ON CONFLICT DO NOTHING
"""

RECORD_EVENTS = """
INSERT INTO history.events (task_id, tenant_id, fence, seq, type, at, data)
SELECT task_id, tenant_id, fence, seq, type, at, data::jsonb
FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::int[], $5::text[], $6::timestamptz[], $7::text[])
  AS r (task_id, tenant_id, fence, seq, type, at, data)
ORDER BY task_id, fence, seq
ON CONFLICT DO NOTHING
"""

FILE_DEAD_LETTERS = """
INSERT INTO history.dead_letters (dead_letter_id, queue, exchange, routing_key, kind, task_id, reason, headers, body,
  died_at, bury_at)
SELECT dead_letter_id, queue, exchange, routing_key, kind, task_id, reason, headers, body, died_at,
  CASE WHEN bury THEN clock_timestamp() END
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::uuid[], $7::text[], $8::jsonb[],
  $9::bytea[], $10::timestamptz[], $11::boolean[])
  AS r (dead_letter_id, queue, exchange, routing_key, kind, task_id, reason, headers, body, died_at, bury)
ORDER BY dead_letter_id
ON CONFLICT (dead_letter_id) DO NOTHING
"""

# One at a time: a letter has no reason to wait for another's run, and no order of locks to keep.
TAKE_DUE_LETTER = """
SELECT dead_letter_id, body FROM history.dead_letters
WHERE bury_at < clock_timestamp()
ORDER BY bury_at LIMIT 1
FOR NO KEY UPDATE SKIP LOCKED
"""
LOOK_AGAIN = "UPDATE history.dead_letters SET bury_at = $2 WHERE dead_letter_id = $1"

ACQUIRE_RUN = "SELECT * FROM runtime.acquire($1, $2, $3, 'persister', interval '10 seconds')"
FINISH_RUN = "SELECT runtime.finish($1, $2, 'failed', $3, $4)"

LEAD = "SELECT pg_try_advisory_lock(7316003)"
# A holder whose machine is gone, and not only its process, is found out by the server within seconds.
FIND_OUT = "SET tcp_keepalives_idle = 3; SET tcp_keepalives_interval = 1; SET tcp_keepalives_count = 3"
WAKE = "SELECT runtime.wake($1)"
READY = """
SELECT task_id, tier, message, ready_at FROM (
  SELECT *, row_number() OVER (PARTITION BY tier ORDER BY ready_at, priority DESC, submitted_at, task_id) AS n
  FROM runtime.parked WHERE ready_at IS NOT NULL AND published_at IS NULL) p
WHERE n <= $1 ORDER BY n
"""
NOTE_PUBLISHED = "SELECT runtime.note_published($1, $2)"
NEXT_DUE = """
SELECT extract(epoch FROM least(
  (SELECT min(wake_at) FROM runtime.parked WHERE ready_at IS NULL AND wake_at IS NOT NULL),
  (SELECT min(due_at) FROM runtime.schedules),
  (SELECT min(deadline_at) FROM history.tasks
   WHERE status = 'queued' AND deadline_at > now())) - clock_timestamp())::float8
"""
PARKED = "SELECT reason, count(*) AS count FROM runtime.parked WHERE ready_at IS NULL GROUP BY reason"
OLDEST_READY = """
SELECT coalesce(extract(epoch FROM clock_timestamp() - min(ready_at)), 0)::float8 FROM runtime.parked
WHERE ready_at IS NOT NULL
"""
# Of the tasks whose deadline has passed, those that have not begun.
OVERDUE = """
SELECT t.task_id, t.tenant_id, t.tier, t.priority FROM history.tasks t LEFT JOIN runtime.runs r USING (task_id)
WHERE t.status = 'queued' AND t.deadline_at <= now()
  AND (r.task_id IS NULL OR r.status = 'parked' AND r.fence = 0)
ORDER BY t.deadline_at LIMIT $1
"""
EXPIRE = """
SELECT runtime.expire(r.task_id, r.tenant_id, r.tier, r.outcome, r.finished_at)
FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bytea[], $5::timestamptz[])
  WITH ORDINALITY AS r (task_id, tenant_id, tier, outcome, finished_at, n) ORDER BY r.n
"""

CANCEL_RECORDED = "SELECT * FROM runtime.cancel_recorded($1)"
NEXT_CANCELLATION = "SELECT runtime.next_cancellation($1)"
SWEEP = "SELECT * FROM runtime.sweep($1, $2)"

ENSURE_PARTITIONS = "SELECT history.ensure_partitions()"


async def record_tasks(connection: Connection, rows: Sequence[TaskRow]) -> None:
    """One row for each task at most."""
    await _write(connection, RECORD_TASKS, rows)


async def record_messages(connection: Connection, rows: Sequence[MessageRow]) -> None:
    """In any order, any number of times."""
    await _write(connection, RECORD_MESSAGES, rows)


async def record_events(connection: Connection, rows: Sequence[EventRow]) -> None:
    """In any order, any number of times."""
    await _write(connection, RECORD_EVENTS, rows)


async def file_dead_letters(connection: Connection, letters: Sequence[DeadLetter], *, bury: bool) -> None:
    """Each letter once, by its id; `bury`: those that are tasks are due for burial."""
    rows = [(*letter.row(), bury and letter.task is not None) for letter in letters]
    await _write(connection, FILE_DEAD_LETTERS, rows)


async def take_due_letter(connection: Connection) -> asyncpg.Record | None:
    """The id and body of a letter whose task is to be looked at, locked until the transaction ends."""
    return await connection.fetchrow(TAKE_DUE_LETTER)


async def look_again(connection: Connection, dead_letter_id: str, at: datetime | None) -> None:
    """Make a letter due at that time, or nevermore."""
    await connection.execute(LOOK_AGAIN, dead_letter_id, at)


async def acquire_run(connection: Connection, task_id: UUID, tenant_id: UUID, tier: str) -> asyncpg.Record:
    """Take a run that nobody has, to end it in the same transaction: nobody ever sees its lease."""
    run = await connection.fetchrow(ACQUIRE_RUN, task_id, tenant_id, tier)
    assert run is not None  # noqa: S101 - a function with OUT parameters returns one row
    return run


async def finish_run(connection: Connection, task_id: UUID, fence: int, outcome: bytes, at: datetime) -> None:
    """Decide that the run has failed, with the message that says so."""
    await connection.execute(FINISH_RUN, task_id, fence, outcome, at)


async def lead(connection: Connection) -> bool:
    """Become the one waker, for as long as the connection lives; False while another is."""
    return bool(await connection.fetchval(LEAD))


async def be_found_out(connection: Connection) -> None:
    """Let the server notice soon when this side of the connection is gone."""
    await connection.execute(FIND_OUT)


async def wake(connection: Connection, window: int) -> int:
    """Make ready what may go on; how many. No tenant gets more than `window` ready at a time by the clock."""
    return int(await connection.fetchval(WAKE, window))


async def ready(connection: Connection, limit: int) -> list[asyncpg.Record]:
    """What is ready and not known to be in its lane: so many of each tier, as a full lane is in no other's way."""
    return list(await connection.fetch(READY, limit))


async def note_published(connection: Connection, published: Sequence[asyncpg.Record]) -> None:
    """These, as `ready` gave them, are in their lanes."""
    await connection.execute(
        NOTE_PUBLISHED, [row["task_id"] for row in published], [row["ready_at"] for row in published]
    )


async def seconds_until_due(connection: Connection) -> float | None:
    """Until the next start, tick or deadline; None where there is none."""
    seconds: float | None = await connection.fetchval(NEXT_DUE)
    return seconds


async def parked(connection: Connection) -> dict[str, int]:
    """How many wait, by reason."""
    return {row["reason"]: row["count"] for row in await connection.fetch(PARKED)}


async def oldest_ready_seconds(connection: Connection) -> float:
    """How long the one that has been ready longest has not been taken by a worker."""
    return float(await connection.fetchval(OLDEST_READY))


async def overdue(connection: Connection, limit: int) -> list[asyncpg.Record]:
    """Tasks that have not begun by their deadline."""
    return list(await connection.fetch(OVERDUE, limit))


async def expire(connection: Connection, ends: Sequence[RunFinished]) -> list[bool]:
    """Decide these ends, in the order of their tasks; of each whether it was, or the task had begun or ended."""
    columns = zip(*((e.task_id, e.tenant_id, e.tier, e.encode(), e.finished_at) for e in ends), strict=True)
    return [bool(row[0]) for row in await connection.fetch(EXPIRE, *columns)]


async def cancel_recorded(connection: Connection, task_ids: Sequence[UUID]) -> list[Swept]:
    """Cancel those of the tasks, now that they are recorded, that an earlier cancel of many covers."""
    return [Swept(**dict(row)) for row in await connection.fetch(CANCEL_RECORDED, task_ids)]


async def next_cancellation(connection: Connection, ours: UUID | None) -> UUID | None:
    """A cancel of many that is unfinished: ours, or one that whoever began it has left."""
    found: UUID | None = await connection.fetchval(NEXT_CANCELLATION, ours)
    return found


async def sweep(connection: Connection, cancellation_id: UUID, limit: int) -> list[Swept]:
    """Cancel the next tasks that it covers."""
    return [Swept(**dict(row)) for row in await connection.fetch(SWEEP, cancellation_id, limit)]


async def ensure_partitions(connection: Connection) -> None:
    """This month's and the next month's partition of the events."""
    await connection.execute(ENSURE_PARTITIONS)


async def _write(connection: Connection, statement: str, rows: Sequence[tuple[Any, ...]]) -> None:
    if rows:
        await connection.execute(statement, *zip(*rows, strict=True))
