"""Leaving a run for later when every model that may answer it is away: the broker brings it again, and later each time.

What was finished is kept, and the slot is free meanwhile. A run that was left for later as often as it may be ends with
the last error, and its message goes to the dead letters, where an operator sees what could not be served.
"""

from __future__ import annotations

from agent_worker.acquired import Acquired
from agent_worker.endings import run_error
from agent_worker.providers.base import ProviderError, TransientError
from common.contracts.runs import RunError
from common.messaging.settlement import Disposition


class DeferredError(Exception):
    """The run is to be tried again later."""

    def __init__(self, error: ProviderError) -> None:
        super().__init__(error.reason)
        self.reason = error.reason


def final(error: Exception, model: str, acquired: Acquired) -> tuple[RunError, Disposition]:
    """The error that the run ends with, and what becomes of its delivery.

    Raises `DeferredError` where a later try may succeed, and the run has one left.
    """
    told = run_error(error, model)
    if not isinstance(error, TransientError):
        return told, Disposition.DONE
    if acquired.deferrals < acquired.most_deferrals:
        raise DeferredError(error) from error
    if acquired.deferrals == 0:
        return told, Disposition.DONE
    message = f"{told.message}; it was tried again later {acquired.deferrals} times"
    return RunError(type=told.type, message=message), Disposition.DEAD


def waiting_event(step: int, later: DeferredError) -> dict[str, object]:
    """What a stream says of it: the data of an event `status`."""
    return {"status": "running", "step": step, "waiting_for": "provider", "deferred": later.reason}
