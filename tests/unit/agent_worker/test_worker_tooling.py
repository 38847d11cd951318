"""What a run gives its tools: reports that are bounded, and go on while PostgreSQL is away."""

from __future__ import annotations

from typing import Any, cast
from uuid import UUID, uuid4

from agent_worker.progress import RunLog
from agent_worker.tool_records import ToolRecords
from agent_worker.tooling import tool_context
from agent_worker.tools.context import Passage, ToolContext
from common.contracts import TaskSubmitted
from common.contracts.base import now
from common.contracts.tasks import InputMessage
from common.errors import StoreUnavailable


class Records:
    """Keeps what is reported, unless it is away."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away
        self.kept: list[dict[str, Any]] = []

    async def report(self, task_id: UUID, fence: int, progress: dict[str, Any]) -> None:
        if self.away:
            raise StoreUnavailable("away")
        self.kept.append(progress)

    async def search(self, task_id: UUID, query: str, limit: int) -> list[Passage]:
        return [Passage(query, 1, 1, str(task_id))]

    async def document_names(self, task_id: UUID) -> list[str]:
        return [str(task_id)]


class Silent:
    def notice(self, log: RunLog, *, urgent: bool) -> None:
        """Nobody listens."""


def task() -> TaskSubmitted:
    return TaskSubmitted(
        task_id=uuid4(),
        tenant_id=uuid4(),
        tier="free",
        level=30,
        priority=5,
        agent="default",
        input=(InputMessage(role="user", content="hello"),),
        request_hash="",
        submitted_at=now(),
    )


def context_of(task: TaskSubmitted, log: RunLog, records: Records) -> ToolContext:
    return tool_context(task, log, cast(ToolRecords, records))


def progress_of(log: RunLog) -> list[dict[str, Any]]:
    return [event.data["progress"] for event in log.not_durable()]


async def test_reports_are_bounded_in_size_and_number() -> None:
    log, records = RunLog("key", 1, Silent()), Records()
    report = context_of(task(), log, records).report
    await report("x" * 10_000, 250)
    await report("y", -1)
    await report("z", float("nan"))
    for _ in range(2_000):
        await report("again", 50)
    told = progress_of(log)
    assert [one["percentage"] for one in told[:3]] == [100.0, 0.0, 0.0]
    assert len(told[0]["message"]) == 500
    assert len(told) == len(records.kept) == 1_000


async def test_the_stream_is_told_though_the_document_cannot_be() -> None:
    log = RunLog("key", 1, Silent())
    await context_of(task(), log, Records(away=True)).report("reading", 10)
    assert progress_of(log) == [{"message": "reading", "percentage": 10.0}]


async def test_a_tools_documents_are_its_runs() -> None:
    asked = task()
    documents = context_of(asked, RunLog("key", 1, Silent()), Records()).documents
    assert await documents.search("a\0b", 5) == [Passage("a\ufffdb", 1, 1, str(asked.task_id))]
    assert await documents.names() == [str(asked.task_id)]
