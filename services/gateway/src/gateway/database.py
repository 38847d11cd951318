"""Transactions as a tenant, in as few round trips as they take, and within a deadline whatever the network does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

from common.errors import StoreUnavailable
from common.postgres import Connection, Pool, acquire

Result = TypeVar("Result")


class Database:
    """The pool, and the calls that are under way: one that misses its deadline is cancelled, but not waited for."""

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._calls: set[asyncio.Task[Any]] = set()

    async def within(self, call: Coroutine[Any, Any, Result], seconds: float | None = None) -> Result:
        """The call's result. Raises `StoreUnavailable` at the deadline, even where cancelling it takes longer."""
        seconds = min(seconds or self._timeout, self._timeout)
        task = asyncio.create_task(call, name="database")
        self._calls.add(task)
        task.add_done_callback(self._ended)
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not done:
            task.cancel()
            raise StoreUnavailable(f"PostgreSQL did not answer within {seconds} s")
        return task.result()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # of a call that nobody waits for any more

    async def answers(self) -> bool:
        """Whether a statement gets through."""
        return await self.within(self._ask())

    async def _ask(self) -> bool:
        async with self.statement() as connection:
            return bool(await connection.fetchval("SELECT true"))

    @asynccontextmanager
    async def statement(self) -> AsyncIterator[Connection]:
        """A connection for a single statement that needs no tenant."""
        async with acquire(self._pool, self._timeout) as connection:
            yield connection

    @asynccontextmanager
    async def as_tenant(self, tenant_id: UUID) -> AsyncIterator[Connection]:
        """A transaction that sees one tenant's rows: begun and bound to the tenant in a single round trip."""
        async with acquire(self._pool, self._timeout) as connection:
            try:
                # `SET` takes no parameters; a UUID's text is hexadecimal digits and hyphens only.
                await connection.execute(f"BEGIN; SET LOCAL app.tenant_id = '{UUID(int=tenant_id.int)}'")
                yield connection
            except BaseException:
                if not connection.is_closed():
                    await connection.execute("ROLLBACK")
                raise
            await connection.execute("COMMIT")
