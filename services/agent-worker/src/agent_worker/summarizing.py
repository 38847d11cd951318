"""What a run is shown of its conversation with a summary of what has no room, where its agent wants one.

A summary is a model call like any other: held, paid and recorded. When one is needed more is left out than must be, so
that half of the room is free: the next one is needed when that is full again, and not with the next message. Whatever
keeps it from being made, the run goes on without.
"""

from __future__ import annotations

from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial

import structlog

from agent_worker import minutes
from agent_worker.accounts import until_available
from agent_worker.budgets import BudgetExceededError, ParkedForBudgetError
from agent_worker.calling import called
from agent_worker.calls import Calls
from agent_worker.happenings import CallUsed
from agent_worker.history import History
from agent_worker.progress import RunLog
from agent_worker.providers.base import NO_ATTEMPT, CallMeter, ModelRequest, Piece, ProviderError
from agent_worker.repository import RunRepository
from agent_worker.resilience.chain import Served
from agent_worker.sizes import overhead, text_bytes
from agent_worker.summary_records import Summary
from agent_worker.telling import event_of
from agent_worker.tools.base import Toolbox
from agent_worker.turns import text_of, user_turn
from common.contracts import TaskSubmitted
from common.contracts.usage import Usage

_log = structlog.get_logger(__name__)
_NO_TOOLS = Toolbox({})
# Less is no conversation that could be summed up.
_LEAST_ROOM = 2_048
# What is said before a summary where a model is shown it, and more.
_AROUND = 256


@dataclass(frozen=True, slots=True)
class Summarizer:
    """Of one run; `served` is the model that answers it, with as many tokens as a summary may have."""

    task: TaskSubmitted
    fence: int
    step: int
    served: Served
    repository: RunRepository
    calls: Calls
    log: RunLog

    async def history(self, room: int) -> tuple[History, Usage]:
        """What was said before, in so many tokens, and what the summary of the rest has used."""
        whole = await self._read(room)
        if not whole.dropped or room < _LEAST_ROOM:
            return whole, Usage()
        known = await until_available(partial(self.repository.summaries.newest, self.task.task_id))
        if known is not None and (after := await self._after(known, room)) is not None:
            return after, Usage()
        kept = whole.fitting(room // 2)
        meter = CallMeter(heard=self.calls.heard, most_bytes=room // 2 - _AROUND)
        made = await self._made(known, kept.dropped, meter)
        if made is not None:
            return replace(kept, summary=minutes.shown(made.text)).fitting(room), meter.usage
        before = minutes.shown(known.text) if known is not None else None
        return replace(whole, summary=before).fitting(room), meter.usage

    async def _read(self, room: int) -> History:
        return await until_available(partial(self.repository.history, self.task.task_id, room))

    async def _after(self, known: Summary, room: int) -> History | None:
        """All that was said after a summary, with it; None where there is no room for both."""
        summary = minutes.shown(known.text)
        rest = await self._read(max(0, room - summary.size))
        if rest.dropped > known.upto:
            return None
        return History(rest.exchanges[known.upto - rest.dropped :], known.upto, summary)

    async def _made(self, known: Summary | None, upto: int, meter: CallMeter) -> Summary | None:
        """The summary of all up to there; None where it cannot be had."""
        done = known.upto if known is not None else 0
        self.log.emit("status", {"status": "running", "step": self.step, "summarizing": upto - done})
        try:
            text = await self._asked(known, upto, meter)
        except (ProviderError, BudgetExceededError, ParkedForBudgetError) as error:
            _log.warning("summary.failed", task_id=str(self.task.task_id), error=repr(error)[:500])
            text = ""
        if meter.asked and (told := event_of(CallUsed(meter.usage, meter.estimated))) is not None:
            self.log.emit(*told)
        if not text or meter.stop_reason == "refusal":
            self.log.emit("status", {"status": "running", "step": self.step, "summarizing": None})
            return None
        made = Summary(upto, text)
        await self.calls.confirmed()
        await until_available(partial(self.repository.summaries.keep, self.task.task_id, self.fence, made))
        return made

    async def _asked(self, known: Summary | None, upto: int, meter: CallMeter) -> str:
        nothing = user_turn("")
        size = self.served.model.window - self.served.max_output_tokens - text_bytes(minutes.INSTRUCTIONS, ())
        size -= text_bytes("", (nothing,)) + overhead((nothing,), _NO_TOOLS)
        done = known.upto if known is not None else 0
        read = partial(self.repository.summaries.exchanges, self.task.task_id, done, upto, max(0, size))
        asked = minutes.transcript(known.text if known is not None else None, await until_available(read), max(0, size))
        request = ModelRequest(
            self.served.model.name,
            minutes.INSTRUCTIONS,
            (user_turn(asked),),
            (),
            self.served.max_output_tokens,
            None,
            NO_ATTEMPT,
        )
        pieces: list[Piece] = []
        async with aclosing(called(self.step, self.served, request, meter, _NO_TOOLS, self.calls)) as stream:
            async for piece in stream:
                pieces.append(piece)
        return text_of(pieces).strip()
