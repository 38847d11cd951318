"""What the agent loop asks for each model call."""

from __future__ import annotations

from typing import Protocol
from uuid import UUID

from agent_worker.providers.base import CallMeter, RateLimits
from agent_worker.resilience.chain import Served


class Calls(Protocol):
    """The leave to make a model call, and the account of it."""

    async def begin(self, step: int, served: Served, input_bound: int, input_estimate: int) -> UUID:
        """Take leave for one call of that model; the attempt's id. Raises what ends the run where there is none.

        The bound is what the call can read at most, the estimate what it will read in all likelihood; both in tokens.
        """

    async def begin_known(self, step: int, served: Served) -> None:
        """Take leave to go on with an answer that is known: no call is made, and nothing held. Raises as `begin`."""

    def heard(self, limits: RateLimits) -> None:
        """The provider begins to answer, and said this of its limits."""

    def record(self, attempt: UUID, step: int, meter: CallMeter) -> None:
        """Account for a call that ended, in whatever way. What follows from it is durable only once that is:
        see `confirmed`."""

    async def confirmed(self) -> None:
        """Wait until the account of all calls that have ended is durable."""
