"""Why a run that was acquired ends before it does anything more, if it does."""

from __future__ import annotations

from agent_worker.quarantine import Death
from agent_worker.repository import Acquisition
from agent_worker.settings import WorkerSettings
from agent_worker.staffing import Staffing
from common.contracts import TaskSubmitted
from common.contracts.base import now
from common.contracts.runs import DEADLINE_PASSED, RunError, TerminalStatus

_BY_CONVERSATION = {
    "conversation_busy": "another task of the conversation was not over yet, and this one was not to wait for it",
    "conversation_not_found": "the task's user has no such conversation: its id is another user's",
}


def refusal_of(
    task: TaskSubmitted,
    found: Acquisition,
    settings: WorkerSettings,
    staffing: Staffing,
    alone: bool,
    death: Death | None,
) -> tuple[TerminalStatus, RunError] | None:
    """The end of the run; None where it is to run."""
    if found.cancel_requested:
        return "cancelled", RunError(type="cancelled", message="the task was cancelled")
    if found.refusal is not None:
        return "failed", RunError(type=found.refusal, message=_BY_CONVERSATION[found.refusal])
    if task.deadline_at is not None and found.fence == 1 and now() > task.deadline_at:
        return "expired", DEADLINE_PASSED
    if (error := _killed(found, alone, death) or _tried_often(found, settings)) is not None:
        return "failed", error
    if staffing.of(task) is None:
        message = f"agent {task.agent!r} or its model is not known to this worker"
        return "failed", RunError(type="not_in_catalogue", message=message)
    return None


def _killed(found: Acquisition, alone: bool, death: Death | None) -> RunError | None:
    """It was run by a process that ran nothing else, and that died: there is nobody else to blame."""
    if found.alone <= int(alone):
        return None
    how = f" ({death.how})" if death is not None else ""
    last = found.steps[-1].number if found.steps else 0
    stands = f"step {last} was the last that was finished" if last else "no step was finished"
    died = f"{found.attempts - 1} workers died with this run, the last one while it ran nothing else{how}"
    return RunError(type="killed_its_worker", message=f"{died}; {stands}")


def _tried_often(found: Acquisition, settings: WorkerSettings) -> RunError | None:
    if found.attempts <= settings.max_attempts:
        return None
    message = f"{found.attempts - 1} workers began this run and none finished it"
    return RunError(type="too_many_attempts", message=message)
