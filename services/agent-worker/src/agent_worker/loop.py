"""The agent loop: ask the model, run the tools it asks for, repeat until it ends its turn.

An async generator of what happens, until the model is done or people are to approve what it wants. It knows nothing of
brokers, databases or HTTP: `Calls` gives leave for each model call, with its hold, and is told what it used. It may be
cancelled at any await; what a call used until it was cut is reported all the same.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from time import monotonic

from agent_worker.calling import called
from agent_worker.calls import Calls
from agent_worker.happenings import (
    Answered,
    CallUsed,
    FellBack,
    Happening,
    HistoryTrimmed,
    LimitReachedError,
    Proposed,
    Repairing,
    ResponseMismatchError,
    Retrying,
    SameAsked,
    Step,
    StepEnded,
    Tally,
    Token,
    ToolsMissing,
    WrappingUp,
)
from agent_worker.history import History
from agent_worker.plan import Plan
from agent_worker.proposals import Proposal
from agent_worker.providers.base import (
    CallMeter,
    ModelRequest,
    Piece,
    ProviderError,
    TextDelta,
    ToolCall,
    Turn,
)
from agent_worker.resilience.chain import Chain, Served
from agent_worker.resilience.closing import REPAIR, Limit
from agent_worker.resilience.retry import Failures, Retry
from agent_worker.response_cache import Answer
from agent_worker.sizes import overhead, said_bytes, text_bytes
from agent_worker.tools.base import Toolbox
from agent_worker.turns import assistant_turn, text_of, user_turn
from agent_worker.undertaking import Intents, Undertaking, Unnoted
from common.contracts.usage import Usage


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
    def summarizing(self) -> Served | None:
        """Who sums up what a window leaves out, with as many tokens as that may have; None: nobody does."""
        tokens, served = self._plan.summary_tokens, self.serving
        return None if tokens is None else replace(served, max_output_tokens=min(tokens, served.model.max_output))

    def room(self, turns: tuple[Turn, ...]) -> int:
        """Tokens that the window has left for a history, before these turns and with the longest answer after them."""
        served, instructions = self.serving, self._request(turns).instructions
        said = text_bytes(instructions, turns) + overhead(turns, self.tools, self._plan.schema)
        return max(0, served.model.window - served.max_output_tokens - said)

    async def run(
        self,
        turns: tuple[Turn, ...],
        first_step: int = 1,
        history: History | None = None,
        used: Usage | None = None,
        passed: float = 0.0,
        proposal: Proposal | None = None,
        repaired: bool = False,
        said: int = 0,
        intents: Intents | None = None,
    ) -> AsyncGenerator[Happening, None]:
        """Run from a step on, after the given turns, and before them what fits of the history.

        The steps before have used so much and said so many bytes, and so many seconds have passed. A first step that is
        a proposal is gone on with: its model was asked. Without `intents` nobody will take the run over. Ends with
        `Answered` or `Proposed`. Raises `ProviderError` where the models failed for good, `LimitReachedError`,
        `ResponseMismatchError`, `ApprovalExpiredError`, and what `Calls` and `Intents` raise.
        """
        given = history or History()
        self._history, self._told, self._repaired = given if self.tools.specs else given.without_tools(), 0, repaired
        self._intents = intents or Unnoted()
        began, total, self._said = monotonic() - passed, used or Usage(), said
        if self.tools.missing:
            yield ToolsMissing(self.tools.missing)
        for number in itertools.count(first_step):
            if proposal is not None and number == proposal.step.number:
                doing = self._undertake(proposal)
            else:
                limit = self._plan.limits.reached(number, total, monotonic() - began, self._said)
                doing = self._step(number, turns, limit)
            async with aclosing(doing) as happenings:
                async for happening in happenings:
                    yield happening
                    if isinstance(happening, StepEnded):
                        turns, total = (*turns, *happening.step.turns), total + happening.step.usage
                        self._said += said_bytes(happening.step.turns)
                    elif isinstance(happening, Answered | Proposed):
                        return

    async def _step(self, number: int, turns: tuple[Turn, ...], limit: Limit | None) -> AsyncGenerator[Happening, None]:
        self._last = limit is not None and bool(self.tools.specs)
        if limit is not None and self._last:
            yield WrappingUp(number, limit)
        pieces: list[Piece] = []
        tally = Tally()
        async with aclosing(self._ask(number, turns, pieces)) as happenings:
            async for happening in happenings:
                tally.note(happening)
                yield happening
        if self._stop_reason == "max_output_bytes":
            limit = self._stop_reason
        calls = [piece for piece in pieces if isinstance(piece, ToolCall)]
        if limit is not None or not calls:
            end = self._checked(self._answer(number, pieces, limit, tally))
            yield end
            if isinstance(end, Repairing):
                yield StepEnded(end.step)
            return
        step = Step(number, (assistant_turn(pieces),), tally.usage, tally.fallbacks)
        if any(map(self.tools.asks, calls)):
            yield Proposed(step, tuple(calls))
            return
        async with aclosing(self._undertake(Proposal(step, tuple(calls)))) as happenings:
            async for happening in happenings:
                yield happening

    def _undertake(self, proposal: Proposal) -> AsyncGenerator[Happening, None]:
        return Undertaking(proposal, self._intents, self.tools).happenings()

    def _answer(self, number: int, pieces: list[Piece], limit: Limit | None, tally: Tally) -> Answered:
        """The last step, of which only the text counts: calls that nobody will run are no part of the conversation."""
        text = text_of(pieces)
        cut = limit == "max_output_bytes" or any(isinstance(piece, ToolCall) for piece in pieces)
        if limit is not None and not text.strip() and cut:
            raise LimitReachedError(limit)
        said = assistant_turn([piece for piece in pieces if isinstance(piece, TextDelta)])
        step = Step(number, (said,) if said.content else (), tally.usage, tally.fallbacks)
        return Answered(step, text, self._stop_reason)

    def _checked(self, answered: Answered) -> Answered | Repairing:
        """The answer; or, once, the step in which one that does not match is asked for anew."""
        problem = self._plan.problem(answered.text)
        if problem is None:
            return answered
        if self._repaired or answered.stop_reason in ("refusal", "max_output_bytes"):
            raise ResponseMismatchError(problem, answered.stop_reason)
        self._repaired = True
        turns = (*answered.step.turns, user_turn(REPAIR.format(problem)))
        return Repairing(replace(answered.step, turns=turns), problem)

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
            meter = CallMeter(heard=self._calls.heard, most_bytes=self._plan.limits.left_to_say(self._said))
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
        request = self._request((*self._history.turns, *turns))
        async with self._plan.cache.place(request) as place:
            if place.taken:
                yield SameAsked(step)
            answer = await place.answer()
            said = self._call(step, request, meter) if answer is None else self._known(step, answer, meter)
            async with aclosing(said) as stream:
                async for piece in stream:
                    pieces.append(piece)
                    if isinstance(piece, TextDelta):
                        yield Token(piece.text)
            if answer is None and self._plan.may_keep(pieces):
                await place.keep(pieces, meter)

    async def _known(self, step: int, answer: Answer, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        """What another call said to the same request."""
        await self._calls.begin_known(step, self.serving)
        answer.note(meter)
        for piece in answer.pieces:
            yield piece

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

    def _request(self, turns: tuple[Turn, ...]) -> ModelRequest:
        """The call, before it has leave."""
        return self._plan.request(self.serving, turns, self.tools, last=self._last)

    def _call(self, step: int, request: ModelRequest, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        return called(step, self.serving, request, meter, self.tools, self._calls)
