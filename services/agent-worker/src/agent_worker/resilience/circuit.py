"""A circuit breaker as a value: it counts how calls of one model end, and says when the next ones are not worth trying.

    closed ──(too many failed)──> open ──(its rest is over)──> probing ──(enough probes succeeded)──> closed
                                   ^─────────(a probe failed: a longer rest)──────┘

Only what speaks against the provider counts as a failure. What a tenant did wrong, and a rate limit, count for nothing:
the first says nothing of the provider, the second has its own keeper (see `limiter`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from agent_worker.providers.base import ProviderError, TransientError

_SLICES = 10
PROBED_SECONDS = 1.0
"""After which one may ask again where another call is the probe."""
Phase = Literal["closed", "open", "probing"]


class CircuitOpenError(TransientError):
    """The model was not called, as its last calls have failed."""

    def __init__(self, model: str, wait: float) -> None:
        super().__init__(
            "provider_unavailable",
            f"the provider of {model} has failed too often lately and is left alone for a moment",
            retry_after=wait,
            refused=True,
        )


@dataclass(frozen=True, slots=True)
class Rules:
    """When a circuit opens, and how it closes."""

    window: float = 30.0
    """Seconds that a call's end counts."""
    minimum: int = 8
    """Ends within the window before which nothing is concluded."""
    rate: float = 0.5
    """The part of them that failed, from which on it opens."""
    rest: float = 5.0
    """Seconds without a call, twice as many after each probe that fails."""
    longest_rest: float = 60.0
    probes: int = 1
    """Under way at a time."""
    proofs: int = 2
    """Probes in a row that must succeed."""


class _Slice(NamedTuple):
    """A part of the window."""

    number: int
    succeeded: int
    failed: int


@dataclass(frozen=True, slots=True)
class Circuit:
    """The circuit of one model, by the clock that its methods are told."""

    rules: Rules = Rules()
    slices: tuple[_Slice, ...] = ()
    opened: int = 0
    """How often in a row, without having closed."""
    opened_at: float = 0.0
    rests_until: float = 0.0
    probing: int = 0
    proven: int = 0

    def phase(self, now: float) -> Phase:
        """What it is now."""
        if not self.opened:
            return "closed"
        return "open" if now < self.rests_until else "probing"

    def wait(self, now: float) -> float:
        """Seconds until a call may be tried; 0: now."""
        if self.phase(now) == "open":
            return self.rests_until - now
        full = self.opened and self.probing >= self.rules.probes
        return min(self.rules.rest, PROBED_SECONDS) if full else 0.0

    def begun(self) -> Circuit:
        """A probe is under way."""
        return replace(self, probing=self.probing + 1)

    def ended(self, succeeded: bool | None, *, probe: bool, now: float) -> Circuit:
        """A call is over; None: its end says nothing of the provider."""
        circuit = replace(self, probing=max(0, self.probing - probe))
        phase = circuit.phase(now)
        if succeeded is None:
            return circuit
        if phase == "closed":
            return circuit._counted(succeeded, now)
        # What began before it opened tells nothing new, and a probe that is late neither.
        return circuit._proved(succeeded, now) if probe and phase == "probing" else circuit

    def _proved(self, succeeded: bool, now: float) -> Circuit:
        if not succeeded:
            return self._open(now)
        if self.proven + 1 >= self.rules.proofs:
            return self.closed()
        return replace(self, proven=self.proven + 1)

    def _counted(self, succeeded: bool, now: float) -> Circuit:
        length = self.rules.window / _SLICES
        number = int(now // length)
        kept = [one for one in self.slices if number - _SLICES < one.number]
        last = kept.pop() if kept and kept[-1].number == number else _Slice(number, 0, 0)
        kept.append(_Slice(number, last.succeeded + succeeded, last.failed + (not succeeded)))
        circuit = replace(self, slices=tuple(kept))
        failed = sum(one.failed for one in kept)
        ends = failed + sum(one.succeeded for one in kept)
        return circuit._open(now) if ends >= self.rules.minimum and failed >= self.rules.rate * ends else circuit

    def _open(self, now: float) -> Circuit:
        rest = min(self.rules.longest_rest, self.rules.rest * 2 ** min(self.opened, 30))
        return replace(self, slices=(), opened=self.opened + 1, opened_at=now, rests_until=now + rest, proven=0)

    def closed(self) -> Circuit:
        """It is trusted again, and counts anew."""
        return replace(self, slices=(), opened=0, proven=0)

    def advised_open(self, opened: int, rest: float, now: float) -> Circuit:
        """Another worker has opened its own, for so many seconds from now: it is believed, within bounds."""
        rest = min(rest, self.rules.longest_rest)
        if self.opened >= opened and (rest <= 0 or self.rests_until >= now + rest):
            return self
        opened = max(opened, self.opened)
        return replace(self, slices=(), opened=opened, opened_at=now, rests_until=now + rest, proven=0)

    def advised_closed(self, at: float) -> Circuit:
        """Another worker's probes have succeeded at that time: they count unless this one has opened since."""
        return self.closed() if self.opened and self.opened_at < at else self


def verdict(error: ProviderError | None) -> bool | None:
    """What the end of a call says of its provider."""
    if error is None:
        return True
    return False if error.fault == "provider" else None
