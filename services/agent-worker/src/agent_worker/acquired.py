"""What an acquisition gave a run: the right to write, and what earlier workers left of its time."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from common.contracts.base import now


@dataclass(frozen=True, slots=True)
class Acquired:
    """One acquisition."""

    fence: int
    attempts: int
    started_at: datetime
    parked_seconds: float = 0.0

    def passed(self, timeout: float) -> float:
        """Seconds of the timeout that are over. A run that was taken over goes on with the time that its first worker
        began to use; while it was parked it used none.
        """
        if self.fence == 1:
            return 0.0
        return min(timeout, (now() - self.started_at).total_seconds() - self.parked_seconds)
