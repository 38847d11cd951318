"""What the agent loop is given: how a task is run, and who gives leave for its calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

from agent_worker.providers.base import CallMeter, RateLimits
from agent_worker.resilience.chain import Served
from agent_worker.resilience.closing import RunLimits
from agent_worker.response_cache import NO_CACHE, ResponseCache
from common.answer_schema import AnswerForm


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

    async def record(self, attempt: UUID, step: int, meter: CallMeter) -> None:
        """Account for a call that ended, in whatever way. A cancellation waits for it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a task is run: everything that does not change while it runs. `models` are the first and its fallbacks."""

    models: tuple[Served, ...]
    system: str
    limits: RunLimits
    temperature: float | None
    form: AnswerForm | None = None
    """What the answer is to match."""
    cache: ResponseCache = NO_CACHE
    """Where answers may be known already."""

    @property
    def schema(self) -> Mapping[str, Any] | None:
        """Of the form."""
        return self.form.schema if self.form is not None else None
