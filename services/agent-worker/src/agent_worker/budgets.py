"""What a run does whose next call does not fit into a budget: look again, wait without its slot, or end. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

from agent_worker.leave import Leave
from agent_worker.obstacles import Obstacle

OnBudget = Literal["fail", "wait", "park"]
REASON = "budget"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long open holds are waited for, in seconds."""

    settling: float = 60.0
    """By a run that is not to wait: in its way are mostly calls that are over, whose records are on their way."""
    waiting: float = 900.0
    """By one that is to wait."""
    in_slot: float = 5.0
    """By one that waits or parks, before it gives its slot back."""


PATIENCE = Patience()


class BudgetExceededError(Exception):
    """The next call does not fit into a budget, and the run is not to wait for it, or has waited."""

    def __init__(self, leave: Leave) -> None:
        amount, cap, missing = (value or Decimal(0) for value in (leave.amount, leave.cap, leave.missing))
        of = f" of {leave.subject}" if leave.subject and leave.scope != "run" else ""
        waited = f" after {leave.waited or 0:.0f} s of waiting for open holds" if leave.verdict == "wait" else ""
        super().__init__(
            f"the next model call could cost {amount:f} USD, for which the {leave.scope} budget{of} of {cap:f} USD"
            f" has {missing:f} USD too little left{waited}"
        )
        self.scope = leave.scope
        self.missing = missing


class ParkedForBudgetError(Exception):
    """The run is to wait for the budget without its slot."""

    def __init__(self, obstacle: Obstacle) -> None:
        super().__init__(f"waits for {obstacle.key}")
        self.obstacle = obstacle


def key_of(scope: str, subject: str) -> str:
    """What a run that waits for a budget waits for, as `runtime.wake_for_budget` reads it."""
    return f"{scope}:{subject}" if subject else scope


def consider(leave: Leave, on_budget: OnBudget, own_cap: Decimal | None, patience: Patience, now: datetime) -> None:
    """Return where the run is to look again soon. Raises `BudgetExceededError` or `ParkedForBudgetError`.

    `own_cap` is what the task allows itself: nobody raises that.
    """
    waited = leave.waited or 0.0
    if leave.verdict == "wait":
        if on_budget != "park" and waited >= (patience.waiting if on_budget == "wait" else patience.settling):
            raise BudgetExceededError(leave)
        if on_budget == "fail" or waited < patience.in_slot:
            return
        gives_up = now + timedelta(seconds=patience.waiting - waited) if on_budget == "wait" else None
        raise ParkedForBudgetError(_obstacle(leave, gives_up))
    if on_budget != "park" or (leave.scope == "run" and leave.cap is not None and leave.cap == own_cap):
        raise BudgetExceededError(leave)
    # A period that is new does not help a call that is too large for all of it.
    fits_whole = leave.cap is None or (leave.amount or Decimal(0)) <= leave.cap
    raise ParkedForBudgetError(_obstacle(leave, leave.renews_at if fits_whole else None))


def _obstacle(leave: Leave, wake_at: datetime | None) -> Obstacle:
    return Obstacle(REASON, key_of(leave.scope or "", leave.subject or ""), wake_at, needs=leave.amount)
