"""The models that may answer a run, in their order: the one that was asked for, then its fallbacks.

A run that has left a model does not come back to it: it would change its voice once more, and pay for a cold cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agent_worker.providers.base import Provider, ProviderError
from agent_worker.resilience.breakers import Passage
from common.catalogue import Model
from common.contracts.runs import Fallback


class Gate(Protocol):
    """What stands before the calls of a model (see `breakers.Breaker`)."""

    async def enter(self) -> Passage:
        """The leave to call. Raises `CircuitOpenError`."""

    def left(self, passage: Passage, error: ProviderError | None) -> None:
        """The call has ended so."""

    def leave(self, passage: Passage, succeeded: bool | None) -> None:
        """The call is over; None: it was cut. Doing it again changes nothing."""


@dataclass(frozen=True, slots=True)
class Served:
    """A model, and what serves it."""

    model: Model
    provider: Provider
    gate: Gate
    max_output_tokens: int
    """Of one call of this run."""


@dataclass(frozen=True, slots=True)
class Chain:
    """The models of one run, and which of them it is at."""

    models: tuple[Served, ...]
    at: int = 0

    @property
    def serving(self) -> Served:
        """The one that is called now."""
        return self.models[self.at]

    @property
    def has_fallback(self) -> bool:
        """Whether another one comes after it."""
        return self.at + 1 < len(self.models)

    def after(self, error: ProviderError) -> Chain | None:
        """The chain at its next model; None where there is none, or where the call would fail there, too."""
        return Chain(self.models, self.at + 1) if self.has_fallback and error.fault != "request" else None

    def fallback(self, step: int, later: Chain, error: ProviderError) -> Fallback:
        """The move to the later one, for the record."""
        return Fallback(
            step=step, from_model=self.serving.model.name, to_model=later.serving.model.name, reason=error.reason
        )
