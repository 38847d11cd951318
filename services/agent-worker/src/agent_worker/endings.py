"""How a run can end, in values: its status, its last step, its error in words for programs and for people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent_worker.accounts import ModelNotAllowedError, UnpricedModelError
from agent_worker.budgets import BudgetExceededError
from agent_worker.happenings import LimitReachedError, ResponseMismatchError, Step
from agent_worker.providers.base import ProviderError
from agent_worker.undertaking import ApprovalExpiredError
from common.contracts.runs import RunError, TerminalStatus
from common.contracts.usage import Usage
from common.errors import PoisonError

FAILURES = (
    BudgetExceededError,
    UnpricedModelError,
    ModelNotAllowedError,
    LimitReachedError,
    ResponseMismatchError,
    ProviderError,
    PoisonError,
)
"""What fails a run for good, and is no fault of this worker."""
# Whether a run is cut when its time is up, or has nothing to say shortly before, is the same to its tenant.
_LIMITS = {"timeout": "timeout"}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended."""

    status: TerminalStatus
    step: Step | None = None
    output: str | None = None
    stop_reason: str | None = None
    error: RunError | None = None

    @property
    def cached(self) -> bool:
        """Whether what was said came from the response cache."""
        return self.step is not None and self.step.usage.cached_calls > 0


APPROVAL_EXPIRED = RunError(type="approval_expired", message=str(ApprovalExpiredError()))
CANCELLED = Ending("cancelled", error=RunError(type="cancelled", message="the task was cancelled"))


def run_error(error: Exception, model: str) -> RunError:
    """One of `FAILURES` as clients see it."""
    if isinstance(error, ProviderError):
        return RunError(type=error.reason, message=error.message)
    if isinstance(error, UnpricedModelError):
        return RunError(type="model_unpriced", message=f"the model {model} has no price, so it cannot be called")
    if isinstance(error, ModelNotAllowedError):
        return RunError(type="model_not_allowed", message=str(error))
    if isinstance(error, PoisonError):
        return RunError(type="too_large", message="a step of the run is too large to be recorded")
    if isinstance(error, ResponseMismatchError):
        return RunError(type="response_does_not_match", message=str(error))
    if isinstance(error, LimitReachedError):
        return RunError(type=_LIMITS.get(error.limit, f"{error.limit}_reached"), message=str(error))
    return RunError(type="budget_exceeded", message=str(error))


def done_data(ending: Ending, usage: Usage) -> dict[str, Any]:
    """The data of the event `done`."""
    data: dict[str, Any] = {"status": ending.status, "usage": usage.model_dump(exclude_defaults=True)}
    if ending.stop_reason is not None:
        data["stop_reason"] = ending.stop_reason
    if ending.cached:
        data["cached"] = True
    if ending.error is not None:
        data["error"] = ending.error.model_dump()
    return data
