"""A run's live log in Redis: appended by the worker that holds the fence, read by any gateway.

The log is a Redis stream whose entry ids are the event ids, so Redis itself refuses what a fenced-off worker still
writes. Every append is announced, with its events, on a channel of the same name: readers get new events from one
subscription and need the log only to begin and to fill holes. All of it can be lost: PostgreSQL has the same events
from each step boundary on, and the worker writes its run's log anew when it finds it gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import orjson

from common.contracts.events import EventId, StreamEvent
from common.pipelining import Argument, Pipelined, Script
from common.redis import Client, reporting

KEEP_SECONDS = 3600
# A run that is over needs its log only until the persister has its events: readers get them from PostgreSQL after that.
KEEP_ENDED_SECONDS = 600
_MAX_ENTRIES = 100_000
_PAGE = 200

# KEYS: the log. ARGV: whether it may be created, seconds to keep it, its limit, then id and event, in turns.
# Answers 1 where all was appended, 0 where the log is gone and was not to be created, -1 where a newer fence wrote.
APPEND = Script(
    """
if ARGV[1] == '0' and redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local announced = {}
for i = 4, #ARGV, 2 do
  local added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[3], ARGV[i], 'e', ARGV[i + 1])
  if type(added) == 'table' and added.err then
    -- Only an id that is not above the top is expected here: anything else is a fault, such as a full memory.
    if not string.find(added.err, 'equal or smaller') then return redis.error_reply(added.err) end
    local top = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]
    if tonumber(string.match(top, '^(%d+)')) > tonumber(string.match(ARGV[i], '^(%d+)')) then return -1 end
  else
    announced[#announced + 1] = ARGV[i + 1]
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[2])
if #announced > 0 then redis.call('PUBLISH', KEYS[1], '[' .. table.concat(announced, ',') .. ']') end
return 1
"""
)

APPENDED, GONE, FENCED_OFF = 1, 0, -1


def key(tenant_id: UUID, task_id: UUID) -> str:
    """The log's key, and the name of its channel; the tenant is the hash tag."""
    return f"{{{tenant_id}}}:events:{task_id}"


def encode(event: StreamEvent) -> bytes:
    """One event as it stands in the log and on the channel."""
    return orjson.dumps(
        {"fence": event.fence, "seq": event.seq, "type": event.type, "at": event.at, "data": event.data}
    )


def decode(raw: bytes) -> StreamEvent:
    """The event of one log entry."""
    return StreamEvent.model_validate_json(raw)


def decode_announced(raw: bytes) -> list[StreamEvent]:
    """The events of one announcement."""
    return [StreamEvent.model_validate(item) for item in orjson.loads(raw)]


def append_arguments(events: Sequence[StreamEvent], *, create: bool) -> list[Argument]:
    """Arguments of one `APPEND`: events in order, of one run."""
    keep = KEEP_ENDED_SECONDS if events and events[-1].type == "done" else KEEP_SECONDS
    arguments: list[Argument] = [int(create), keep, _MAX_ENTRIES]
    for event in events:
        arguments += [str(event.id), encode(event)]
    return arguments


async def append(redis: Pipelined, log: str, events: Sequence[StreamEvent], *, create: bool) -> int:
    """Append and announce: `APPENDED`, `GONE` or `FENCED_OFF`. Raises `CacheUnavailable`."""
    answer: int = await redis.run(APPEND, [log], append_arguments(events, create=create))
    return answer


async def read(client: Client, log: str, after: EventId, count: int) -> list[StreamEvent]:
    """At most that many events after an id. Raises `CacheUnavailable`."""
    with reporting():
        entries: list[tuple[bytes, dict[bytes, bytes]]] = await client.xrange(  # type: ignore[assignment]
            log, min=f"({after}", max="+", count=count
        )
        return [decode(fields[b"e"]) for _, fields in entries]


async def read_all(redis: Pipelined, log: str, after: EventId, most: int) -> list[StreamEvent]:
    """The same over a connection that many share, a small page at a time. Raises `CacheUnavailable`."""
    events: list[StreamEvent] = []
    while len(events) < most:
        last = events[-1].id if events else after
        entries = await redis.execute("XRANGE", log, f"({last}", "+", "COUNT", _PAGE)
        events += [decode(fields[1]) for _, fields in entries]  # one field, its name before it
        if len(entries) < _PAGE:
            break
    return events
