"""The agent loop: ask the model, run the tools it asks for, repeat until it ends its turn.

An async generator of what happens, which also ends where people are to approve what the model wants. It knows nothing
of brokers, databases or HTTP: before each model call it asks `Calls` for leave, which checks the fence, saves the step
before, and takes the money hold; after each it reports what the call used. It may be cancelled at any await; what a
call used until it was cut is reported all the same.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic

from agent_worker.approved import Approved
from agent_worker.calls import Calls
from agent_worker.cutting import undisturbed
from agent_worker.happenings import (
    Answered,
    CallUsed,
    Decided,
    FellBack,
    Happening,
    HistoryTrimmed,
    LimitReachedError,
    Proposed,
    Retrying,
    Step,
    StepEnded,
    Token,
    ToolEnded,
    ToolsMissing,
    ToolStarted,
    WrappingUp,
)
from agent_worker.history import History
from agent_worker.metering import settle_meter
from agent_worker.providers.base import (
    CallMeter,
    ModelRequest,
    Piece,
    ProviderError,
    StopReason,
    TextDelta,
    ToolCall,
    Turn,
)
from agent_worker.resilience.chain import Chain, Served
from agent_worker.resilience.closing import WRAP_UP, Limit, RunLimits
from agent_worker.resilience.retry import Failures, Retry
from agent_worker.sizes import overhead, text_bytes, tokens_of
from agent_worker.tools.base import Toolbox
from agent_worker.turns import assistant_turn, text_of, tool_turn
from common.contracts.runs import Fallback
from common.contracts.usage import Usage


@dataclass(frozen=True, slots=True)
class Plan:
    """How a task is run: everything that does not change while it runs. `models` are the first and its fallbacks."""

    models: tuple[Served, ...]
    system: str
    limits: RunLimits
    temperature: float | None


class AgentLoop:
    """One run of the loop."""

    def __init__(self, plan: Plan, tools: Toolbox, calls: Calls, retry: Retry) -> None:
        self._plan = plan
        self._chain = Chain(plan.models)
        self._retries = 0
        self._last = False
        self.tools = tools
        self._calls = calls
        self._retry = retry
        self._random = random.Random()  # noqa: S311 - jitter

    @property
    def serving(self) -> Served:
        """The model that is asked now."""
        return self._chain.serving

    @property
    def _system(self) -> str:
        """The system prompt of this step."""
        return "\n\n".join(filter(None, (self._plan.system, WRAP_UP))) if self._last else self._plan.system

    def room(self, turns: tuple[Turn, ...]) -> int:
        """Tokens that the window has left for a history, before these turns and with the longest answer after them."""
        served = self.serving
        said = text_bytes(self._system, turns) + overhead(turns, self.tools)
        return max(0, served.model.window - served.max_output_tokens - said)

    async def run(
        self,
        turns: tuple[Turn, ...],
        first_step: int = 1,
        history: History | None = None,
        used: Usage | None = None,
        passed: float = 0.0,
        approved: Approved | None = None,
    ) -> AsyncGenerator[Happening, None]:
        """Run from a step on, after the given turns, and before them what fits of the history.

        The steps before have used so much, and so many seconds have passed. A first step that waited for approval is
        gone on with: its model was asked. Ends with `Answered` or `Proposed`. Raises `ProviderError` where the models
        failed for good, `LimitReachedError`, `ApprovalExpiredError`, and what `Calls` raises.
        """
        self._history, self._told = self._shown(history or History()), 0
        began, total = monotonic() - passed, used or Usage()
        if self.tools.missing:
            yield ToolsMissing(self.tools.missing)
        for number in itertools.count(first_step):
            if approved is not None and number == approved.step.number:
                doing = self._go_on(approved)
            else:
                doing = self._step(number, turns, self._plan.limits.reached(number, total, monotonic() - began))
            async with aclosing(doing) as happenings:
                async for happening in happenings:
                    yield happening
                    if isinstance(happening, StepEnded):
                        turns, total = (*turns, *happening.step.turns), total + happening.step.usage
                    elif isinstance(happening, Answered | Proposed):
                        return

    async def _step(self, number: int, turns: tuple[Turn, ...], limit: Limit | None) -> AsyncGenerator[Happening, None]:
        self._last = limit is not None and bool(self.tools.specs)
        if limit is not None and self._last:
            yield WrappingUp(number, limit)
        pieces: list[Piece] = []
        spent, fallbacks = Usage(), list[Fallback]()
        async with aclosing(self._ask(number, turns, pieces)) as happenings:
            async for happening in happenings:
                if isinstance(happening, CallUsed):
                    spent = spent + happening.usage
                elif isinstance(happening, FellBack):
                    fallbacks.append(happening.fallback)
                yield happening
        calls = [piece for piece in pieces if isinstance(piece, ToolCall)]
        if limit is not None or not calls:
            yield Answered(*self._answer(number, pieces, limit, spent, tuple(fallbacks)))
            return
        step = Step(number, (assistant_turn(pieces),), spent, tuple(fallbacks))
        if any(map(self.tools.asks, calls)):
            yield Proposed(step, tuple(calls))
            return
        async with aclosing(self._use(step, calls)) as happenings:
            async for happening in happenings:
                yield happening

    def _answer(
        self, number: int, pieces: list[Piece], limit: Limit | None, spent: Usage, fallbacks: tuple[Fallback, ...]
    ) -> tuple[Step, str, StopReason]:
        """The last step, of which only the text counts: calls that nobody will run are no part of the conversation."""
        text = text_of(pieces)
        if limit is not None and not text.strip() and any(isinstance(piece, ToolCall) for piece in pieces):
            raise LimitReachedError(limit)
        said = assistant_turn([piece for piece in pieces if isinstance(piece, TextDelta)])
        return Step(number, (said,) if said.content else (), spent, fallbacks), text, self._stop_reason

    async def _go_on(self, approved: Approved) -> AsyncGenerator[Happening, None]:
        await approved.begin()
        yield Decided(approved.step.number, approved.rulings)
        async with aclosing(self._use(approved.step, approved.calls, approved)) as happenings:
            async for happening in happenings:
                yield happening

    async def _use(
        self, step: Step, calls: Sequence[ToolCall], approved: Approved | None = None
    ) -> AsyncGenerator[Happening, None]:
        for index, call in enumerate(calls):
            if approved is None or approved.makes(index):
                yield ToolStarted(call)
        results = await self.tools.run_all(calls, partial(approved.run, tools=self.tools) if approved else None)
        for result in results:
            yield ToolEnded(result)
        yield StepEnded(replace(step, turns=(*step.turns, tool_turn(results))))

    def _shown(self, history: History) -> History:
        return history if self.tools.specs else history.without_tools()

    def _trimmed(self, step: int, turns: tuple[Turn, ...]) -> HistoryTrimmed | None:
        """Let go what the model's window has no room for; told where that is more than before."""
        self._history = self._history.fitting(self.room(turns))
        exchanges, dropped = len(self._history.exchanges), self._history.dropped
        if dropped <= self._told:
            return None
        self._told = dropped
        return HistoryTrimmed(step, {"exchanges": exchanges, "dropped": dropped})

    async def _ask(self, step: int, turns: tuple[Turn, ...], pieces: list[Piece]) -> AsyncGenerator[Happening, None]:
        """Call the model until it answers, then the next one, until all have failed for good."""
        self._failures, error = 0, None
        while True:
            meter = CallMeter(heard=self._calls.heard)
            try:
                async with aclosing(self._listen(step, turns, pieces, meter)) as happenings:
                    async for happening in happenings:
                        yield happening
            except ProviderError as failed:
                error = failed
            else:
                self._stop_reason = meter.stop_reason
                yield CallUsed(meter.usage, meter.estimated)
                return
            recovery = self._recover(step, error, meter)
            if meter.asked:
                yield CallUsed(meter.usage, meter.estimated)
            if recovery is None:
                raise error
            pieces.clear()
            yield recovery
            await asyncio.sleep(recovery.delay)

    async def _listen(
        self, step: int, turns: tuple[Turn, ...], pieces: list[Piece], meter: CallMeter
    ) -> AsyncGenerator[Happening, None]:
        """One call, and what it says."""
        if (trimmed := self._trimmed(step, turns)) is not None:
            yield trimmed
        async with aclosing(self._call(step, (*self._history.turns, *turns), meter)) as stream:
            async for piece in stream:
                pieces.append(piece)
                if isinstance(piece, TextDelta):
                    yield Token(piece.text)

    def _recover(self, step: int, error: ProviderError, meter: CallMeter) -> Retrying | FellBack | None:
        """What is done about a failed call: once more, by another model, or nothing."""
        self._failures += 1
        later = self._chain.after(error)
        before = Failures(self._failures, self._retries, fallback=later is not None)
        delay = self._retry.delay(before, error, self._random)
        if delay is not None:
            self._retries += 1
            return Retrying(step, error, delay, meter.asked)
        if later is None:
            return None
        fallback = self._chain.fallback(step, later, error)
        self._chain, self._failures = later, 0
        return FellBack(fallback, meter.asked)

    async def _call(self, step: int, turns: tuple[Turn, ...], meter: CallMeter) -> AsyncGenerator[Piece, None]:
        served = self.serving
        passage = await served.gate.enter()
        try:
            async with aclosing(self._paid_call(step, served, turns, meter)) as stream:
                async for piece in stream:
                    yield piece
        except ProviderError as error:
            served.gate.left(passage, error)
            raise
        else:
            served.gate.left(passage, None)
        finally:
            served.gate.leave(passage, None)

    async def _paid_call(
        self, step: int, served: Served, turns: tuple[Turn, ...], meter: CallMeter
    ) -> AsyncGenerator[Piece, None]:
        model, limit, temperature = served.model, served.max_output_tokens, self._plan.temperature
        text = text_bytes(self._system, turns)
        bound = min(model.window, text + overhead(turns, self.tools))
        estimate = min(bound, tokens_of(text))
        attempt = await self._calls.begin(step, served, bound, estimate)
        meter.asked = True
        request = ModelRequest(
            model.name, self._system, turns, self.tools.specs, limit, temperature, attempt, use_tools=not self._last
        )
        try:
            async with aclosing(served.provider.stream(request, meter)) as stream:
                async for piece in stream:
                    yield piece
        except ProviderError as error:
            meter.refused, meter.failure = error.refused, error
            raise
        finally:
            # However it ended: what was used is accounted for before anything else happens.
            settle_meter(meter, estimate, limit)
            await undisturbed(self._calls.record(attempt, step, meter))
