"""The circuits of all models as this process has them, with what the other workers advise.

A call asks its circuit without a round trip. Only a probe, which is rare, is claimed in Redis first, so that all
workers together make one at a time. What is to be told is told by the background task, which looks once a second, too.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic

import structlog

from agent_worker.metrics import CIRCUIT_OPEN, CIRCUIT_OPENED
from agent_worker.providers.base import ProviderError
from agent_worker.resilience.advice import (
    ADVICE,
    CLOSING,
    LOOKING,
    RELEASING,
    Advice,
    claiming,
    key_of,
    opening,
    read,
)
from agent_worker.resilience.circuit import PROBED_SECONDS, Circuit, CircuitOpenError, Rules, verdict
from common.catalogue import Catalogue
from common.errors import CacheRefused, CacheUnavailable
from common.pipelining import Argument, Pipelined

_log = structlog.get_logger(__name__)
_LOOK_SECONDS = 1.0


@dataclass(slots=True)
class Passage:
    """The leave that one call has from its circuit; it is given back once."""

    probe: bool = False
    open: bool = field(default=True)


class Breaker:
    """The circuit of one model of one provider."""

    def __init__(
        self, redis: Pipelined, provider: str, model: str, rules: Rules, on_change: Callable[[], None]
    ) -> None:
        self.provider = provider
        self.model = model
        self.circuit = Circuit(rules)
        self.untold: list[tuple[Argument, ...]] = []
        """What is to be told to the others; a later word takes the place of an earlier one."""
        self._key = key_of(provider, model)
        self._redis = redis
        self._on_change = on_change
        self.show()

    async def enter(self) -> Passage:
        """The leave to call the model. Raises `CircuitOpenError`."""
        now = monotonic()
        if self.circuit.phase(now) == "closed":
            return Passage()
        if (wait := self.circuit.wait(now)) > 0:
            raise CircuitOpenError(self.model, wait)
        self._become(self.circuit.begun())  # before the question, so that two of this process do not ask it
        passage = Passage(probe=True)
        try:
            advice = await self._claim()
        except BaseException:
            self.leave(passage, None)
            raise
        if advice is not None and not advice.granted:
            self._drop(passage)
            self.heed(advice)
            if self.circuit.phase(monotonic()) == "closed":
                return Passage()
            raise CircuitOpenError(self.model, max(advice.rest, PROBED_SECONDS))
        _log.info("circuit.probed", provider=self.provider, model=self.model)
        return passage

    def leave(self, passage: Passage, succeeded: bool | None) -> None:
        """The call is over (see `Circuit.ended`). Doing it again changes nothing."""
        if not passage.open:
            return
        passage.open = False
        if passage.probe:
            self._tell(RELEASING)
        self._become(self.circuit.ended(succeeded, probe=passage.probe, now=monotonic()), own=True)

    def left(self, passage: Passage, error: ProviderError | None) -> None:
        """The call has ended so."""
        self.leave(passage, verdict(error))

    def heed(self, advice: Advice) -> None:
        """What the others say."""
        now = monotonic()
        if advice.opened:
            self._become(self.circuit.advised_open(advice.opened, advice.rest, now))
        else:
            self._become(self.circuit.advised_closed(now - advice.age))

    def trust(self) -> None:
        """Count anew: what its calls came to until now says nothing of the next ones."""
        self._become(self.circuit.closed(), own=True)

    async def exchange(self) -> None:
        """Tell the others what is to be told, and hear what they say."""
        questions, self.untold = [*self.untold, LOOKING], []
        try:
            answers = await self._redis.run_each(ADVICE, [([self._key], question) for question in questions])
        except CacheUnavailable:
            return  # it was advice, and each of them will find out by itself
        if not self.untold and not isinstance(answers[-1], CacheRefused) and (advice := read(answers[-1])) is not None:
            self.heed(advice)

    def show(self) -> None:
        """Set the gauge."""
        CIRCUIT_OPEN.labels(self.provider, self.model).set(self.circuit.opened > 0)

    async def _claim(self) -> Advice | None:
        """Redis' answer; None: it is away, and this process probes by itself."""
        question = claiming(self.circuit.opened, monotonic() - self.circuit.opened_at)
        try:
            answer: Sequence[bytes] = await self._redis.run(ADVICE, [self._key], question)
        except CacheUnavailable:
            return None
        return read(answer)

    def _drop(self, passage: Passage) -> None:
        """The probe is another one's: nothing is released that is not ours."""
        passage.open = False
        self._become(self.circuit.ended(None, probe=True, now=monotonic()))

    def _become(self, circuit: Circuit, *, own: bool = False) -> None:
        before, self.circuit = self.circuit, circuit
        if (circuit.opened > 0) == (before.opened > 0) and circuit.opened_at == before.opened_at:
            return
        now = monotonic()
        rest = round(circuit.wait(now), 1)
        if circuit.opened:
            CIRCUIT_OPENED.labels(self.provider, self.model).inc(own)
            _log.warning("circuit.open", provider=self.provider, model=self.model, seconds=rest, advised=not own)
        else:
            _log.info("circuit.closed", provider=self.provider, model=self.model, advised=not own)
        if own:
            self._tell(opening(circuit.opened, circuit.rests_until - now) if circuit.opened else CLOSING)
        self.show()

    def _tell(self, word: tuple[Argument, ...]) -> None:
        self.untold = [word]
        self._on_change()


class Breakers:
    """All of them. `run` is their background task."""

    def __init__(self, redis: Pipelined, catalogue: Catalogue, rules: Rules | None = None) -> None:
        self._wake = asyncio.Event()
        self._models = {
            model.name: Breaker(redis, model.provider, model.name, rules or Rules(), self._wake.set)
            for model in catalogue.models
        }

    def of(self, model: str) -> Breaker:
        """The circuit of one of the catalogue's models."""
        return self._models[model]

    def trust(self, provider: str) -> None:
        """Let the calls of this provider's models through again: its keys have changed, and the old ones may have been
        what was refused."""
        for breaker in self._models.values():
            if breaker.provider == provider:
                breaker.trust()

    async def run(self) -> None:
        """Exchange advice when there is something to tell, and once a second, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._wake.wait()
            told = self._wake.is_set()
            self._wake.clear()
            asked = [breaker for breaker in self._models.values() if breaker.untold or not told]
            await asyncio.gather(*(breaker.exchange() for breaker in asked))
