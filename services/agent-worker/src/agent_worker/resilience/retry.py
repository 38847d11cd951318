"""When a failed model call is tried again, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass

from agent_worker.providers.base import ProviderError, TransientError
from agent_worker.resilience.circuit import CircuitOpenError


@dataclass(frozen=True, slots=True)
class Failures:
    """What has gone wrong so far."""

    in_step: int
    """Calls of this model that failed in this step; the first is 1."""
    retries: int = 0
    """Of the whole run, whatever their model."""
    fallback: bool = False
    """Whether another model may answer instead."""


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential backoff with full jitter; a provider's `Retry-After` is honoured up to a bound.

    Where another model may answer, fewer calls are made of one that fails, and nobody waits long for it.
    """

    calls: int = 4
    """Of one model in one step, at most."""
    calls_before_fallback: int = 2
    budget: int = 12
    """Retries of a whole run: one whose every step fails a little is not to cost a multiple."""
    base: float = 0.5
    """Seconds; doubles with each failure."""
    cap: float = 20.0
    """Seconds at most, whatever the provider wishes."""
    patience: float = 2.0
    """Seconds that a provider may wish for where another model may answer."""

    def delay(self, failures: Failures, error: ProviderError, source: random.Random) -> float | None:
        """Seconds to wait, or None: this model is not called again in this step."""
        calls = self.calls_before_fallback if failures.fallback else self.calls
        if not isinstance(error, TransientError) or failures.in_step >= calls or failures.retries >= self.budget:
            return None
        if failures.fallback and (isinstance(error, CircuitOpenError) or (error.retry_after or 0) > self.patience):
            return None
        backoff = source.uniform(0, min(self.cap, self.base * 2 ** (failures.in_step - 1)))
        if error.retry_after is None:
            return backoff
        return min(self.cap, error.retry_after + backoff)
