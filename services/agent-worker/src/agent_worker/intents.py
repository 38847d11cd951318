"""The `Intents` of a run: rows in PostgreSQL, written under its fence."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from time import monotonic
from typing import Any
from uuid import UUID

from agent_worker.accounts import CancelRequestedError, RunLostError, until_available
from agent_worker.lease import Lease
from agent_worker.proposals import Proposal, document_of
from agent_worker.repository import RunRepository
from common.contracts.events import EventId


class RunIntents:
    """See `agent_worker.undertaking.Intents`."""

    def __init__(
        self,
        repository: RunRepository,
        task_id: UUID,
        fence: int,
        lease: Lease,
        make_durable: Callable[[], Awaitable[EventId]],
    ) -> None:
        """`make_durable` answers with the last event that stands when the run goes on from what is stored."""
        self._repository = repository
        self._task_id = task_id
        self._fence = fence
        self._lease = lease
        self._make_durable = make_durable

    async def begin(self, proposal: Proposal, indexes: Sequence[int]) -> dict[int, dict[str, Any] | None]:
        """See `Intents.begin`. Raises `RunLostError`."""
        document = None if proposal.stored else document_of(proposal, await self._make_durable())
        step = proposal.step.number
        begin = partial(self._repository.begin_tools, self._task_id, self._fence, step, indexes, document)
        begun = await until_available(begin)
        if begun is None:
            raise RunLostError
        return begun

    async def confirm(self) -> None:
        """See `Intents.confirm`. Raises `RunLostError` and `CancelRequestedError`."""
        while not self._lease.holds:
            await until_available(self._renew)

    async def _renew(self) -> None:
        asked_at = monotonic()
        renewed = await self._repository.renew([(self._task_id, self._fence)])
        if self._task_id not in renewed:
            raise RunLostError
        if renewed[self._task_id]:
            raise CancelRequestedError
        self._lease.renewed(asked_at)

    async def note(self, step: int, index: int, result: dict[str, Any]) -> None:
        """See `Intents.note`."""
        noting = partial(self._repository.note_result, self._task_id, self._fence, step, index, result)
        await until_available(noting)
