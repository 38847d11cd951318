"""When a failed model call is tried again, and after how long."""

from __future__ import annotations

import random
from dataclasses import dataclass

from agent_worker.providers.base import ProviderError, TransientError


@dataclass(frozen=True, slots=True)
class Retry:
    """Exponential backoff with full jitter; a provider's `Retry-After` is honoured up to a bound."""

    calls: int = 4
    """At most so many calls in one step."""
    base: float = 0.5
    """Seconds; doubles with each failure."""
    cap: float = 20.0
    """Seconds at most, whatever the provider wishes."""

    def delay(self, failures: int, error: ProviderError, source: random.Random) -> float | None:
        """Seconds to wait after so many failures (the first is 1), or None: give up."""
        if not isinstance(error, TransientError) or failures >= self.calls:
            return None
        backoff = source.uniform(0, min(self.cap, self.base * 2 ** (failures - 1)))
        if error.retry_after is None:
            return backoff
        return min(self.cap, error.retry_after + backoff)
