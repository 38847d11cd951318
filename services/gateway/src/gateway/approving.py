"""Deciding on a tool call that waits for a person."""

from __future__ import annotations

import asyncio
from uuid import UUID

from common.contracts.runs import TERMINAL
from gateway import problems
from gateway.approval_records import Approvals, Decision, Ruling
from gateway.failures import invalid_items
from gateway.problems import Problem
from gateway.records import Records
from gateway.tasks import Tasks
from gateway.tool_arguments import misfits

# A stream says that a call waits a moment before its run is parked.
_LOOKS = 10
_BETWEEN_LOOKS_SECONDS = 0.2


class Approving:
    """Decides on calls, and says why it cannot be done."""

    def __init__(self, approvals: Approvals, tasks: Tasks, records: Records) -> None:
        self._approvals = approvals
        self._tasks = tasks
        self._records = records

    async def decide(self, tenant_id: UUID, task_id: UUID, asked: Decision) -> Ruling:
        """Decide on a call. Deciding the same again changes nothing. Raises `Problem`, `Unavailable`."""
        for _ in range(_LOOKS):
            await self._check_arguments(tenant_id, task_id, asked)
            ruling = await self._approvals.decide(tenant_id, task_id, asked)
            if ruling.verdict != "running":
                break
            await asyncio.sleep(_BETWEEN_LOOKS_SECONDS)
        if ruling.verdict in ("decided", "repeated"):
            return ruling
        raise await self._refusal(tenant_id, task_id, asked, ruling)

    async def exists(self, tenant_id: UUID, task_id: UUID) -> bool:
        """Whether the tenant has such a task, recorded or not."""
        state = await self._tasks.state(tenant_id, task_id)
        return state is not None or await self._records.answer(tenant_id, task_id) is not None

    async def _check_arguments(self, tenant_id: UUID, task_id: UUID, asked: Decision) -> None:
        if asked.arguments is None:
            return
        schema = await self._approvals.schema(tenant_id, task_id, asked.call_id)
        if schema is not None and (wrong := misfits(asked.arguments, schema)):
            path, reason = wrong[0]
            where = ".".join(("arguments", *path))
            raise invalid_items([(None, ("arguments", *path), why) for path, why in wrong], f"{where}: {reason}")

    async def _refusal(self, tenant_id: UUID, task_id: UUID, asked: Decision, ruling: Ruling) -> Problem:
        if ruling.verdict == "differs":
            at = ruling.decided_at.isoformat(timespec="seconds") if ruling.decided_at else ""
            said = f"Somebody has decided otherwise: {ruling.decision}, by {ruling.decided_by}, at {at}."
            return problems.ALREADY_DECIDED.problem(said)
        if ruling.verdict == "late":
            return problems.NOT_WAITING.problem("The time to decide is over: the agent's policy decides now.")
        if ruling.verdict == "unknown_task" and not await self.exists(tenant_id, task_id):
            return problems.NOT_FOUND.problem("There is no such task.")
        state = await self._tasks.state(tenant_id, task_id)
        status = state.status if state is not None else "queued"
        if status in TERMINAL:
            return problems.NOT_WAITING.problem(f"The task has ended as {status}: nothing of it waits for approval.")
        return await self._unknown(tenant_id, task_id, asked, status)

    async def _unknown(self, tenant_id: UUID, task_id: UUID, asked: Decision, status: str) -> Problem:
        rows = await self._approvals.listed(tenant_id, task_id)
        waiting = [row["call_id"] for row in rows if row["decision"] is None]
        if status == "parked" and waiting:
            named = ", ".join(repr(one) for one in waiting[:5])
            return problems.NOT_FOUND.problem(f"No call {asked.call_id!r} waits for approval. Those that do: {named}.")
        return problems.NOT_WAITING.problem(f"The task is {status}, and nothing of it waits for approval.")
