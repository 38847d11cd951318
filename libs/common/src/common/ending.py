"""What is left to do for a task that ends without having run: nobody else ends its stream and frees its place."""

from __future__ import annotations

from common import admission, streams
from common.contracts import RunFinished
from common.pipelining import Pipelined


async def tell_end(redis: Pipelined, end: RunFinished, priority: int | None) -> None:
    """End its live stream, and stop counting it. Doing it again changes nothing. Raises `CacheUnavailable`.

    Without a priority its place is looked for among all.
    """
    await streams.append(redis, streams.key(end.tenant_id, end.task_id), end.events, create=True)
    for one in admission.PRIORITIES if priority is None else (priority,):
        await admission.release(redis, end.tenant_id, end.task_id, one)
