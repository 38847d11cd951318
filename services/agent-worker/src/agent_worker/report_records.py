"""SQL of what workers report of themselves."""

from __future__ import annotations

from common import postgres
from common.postgres import Pool

_REPORT = "SELECT runtime.report_worker($1, $2, $3)"
_RETIRE = "SELECT runtime.retire_worker($1)"


class WorkerReports:
    """What workers say of themselves. Every method raises `StoreUnavailable` where PostgreSQL does not answer."""

    def __init__(self, pool: Pool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout

    async def report(self, worker: str, slots: int, lanes: dict[str, int]) -> None:
        """This worker is there, with so many slots; `lanes`: of each tier, how many tasks could begin now."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            await connection.execute(_REPORT, worker, slots, lanes)

    async def retire(self, worker: str) -> None:
        """It is there no more."""
        async with postgres.acquire(self._pool, self._timeout) as connection:
            await connection.execute(_RETIRE, worker)
