"""What the loop does about a model that fails: again, by another model, or no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.checkpoint import Checkpoint
from agent_worker.happenings import Answered, FellBack, Happening, HistoryTrimmed, Retrying, StepEnded
from agent_worker.history import Exchange, History
from agent_worker.loop import AgentLoop
from agent_worker.providers.base import (
    ModelRequest,
    PermanentError,
    ProviderError,
    TextDelta,
    ToolCall,
    TransientError,
    Turn,
)
from agent_worker.providers.scripted import Scripted
from agent_worker.resilience.chain import Served
from agent_worker.resilience.circuit import Rules
from agent_worker.resilience.retry import Retry
from common.contracts.events import EventId
from common.contracts.runs import Fallback
from tests.unit.agent_worker.serving import plan, served
from tests.unit.agent_worker.test_worker_loop import ASKED, TOOLS, Books, Said

DOWN = TransientError("provider_unavailable", "down")
SPENT = PermanentError("provider_quota_exhausted", "spent", fault="provider")
REFUSED = PermanentError("provider_refused_request", "too long")
QUICK = Retry(base=0.001, cap=0.001)
Script = Callable[[ModelRequest], Said]


def failing(error: ProviderError) -> Scripted:
    return Scripted(lambda _: (TextDelta("never mind"), error))


def answering(*said: Said) -> Scripted:
    left = list(said)
    return Scripted(lambda _: left.pop(0) if len(left) > 1 else left[0])


async def played(
    *models: Served, retry: Retry = QUICK, history: History | None = None, max_steps: int = 5
) -> tuple[list[Happening], Books]:
    books, happenings = Books(), []
    loop = AgentLoop(plan(*models, max_steps=max_steps), TOOLS, books, retry)
    try:
        async for happening in loop.run(ASKED, history=history):
            happenings.append(happening)
    finally:
        books.check()
    return happenings, books


async def failed(loop: AgentLoop) -> tuple[list[Happening], ProviderError | None]:
    """What happened, and the error that ended it."""
    seen: list[Happening] = []
    try:
        async for happening in loop.run(ASKED):
            seen.append(happening)
    except ProviderError as error:
        return seen, error
    return seen, None


def moves(happenings: list[Happening]) -> list[Fallback]:
    return [happening.fallback for happening in happenings if isinstance(happening, FellBack)]


async def test_the_next_model_answers_and_stays() -> None:
    second = answering((ToolCall("a", "double", {"n": 1}),), (TextDelta("done"),))
    happenings, books = await played(served(failing(DOWN), "first"), served(second, "second"))
    assert moves(happenings) == [Fallback(step=1, from_model="first", to_model="second", reason="provider_unavailable")]
    assert books.models == ["first", "first", "second", "second"]
    answered = happenings[-1]
    assert isinstance(answered, Answered)
    assert answered.text == "done"


@pytest.mark.parametrize(("error", "calls"), [(DOWN, 2), (SPENT, 1)])
async def test_what_another_model_may_answer_goes_through_the_whole_chain(error: ProviderError, calls: int) -> None:
    names = ("a", "b", "c")
    happenings, books = await played(
        *(served(failing(error), name) for name in names), served(answering((TextDelta("ok"),)), "d")
    )
    assert [move.to_model for move in moves(happenings)] == ["b", "c", "d"]
    assert Counter(books.models) == {**dict.fromkeys(names, calls), "d": 1}


async def test_the_requests_own_fault_goes_nowhere_else() -> None:
    books = Books()
    loop = AgentLoop(
        plan(served(failing(REFUSED), "a"), served(answering((TextDelta("ok"),)), "b")), TOOLS, books, QUICK
    )
    with pytest.raises(PermanentError):
        _ = [happening async for happening in loop.run(ASKED)]
    assert books.models == ["a"]


async def test_the_last_models_error_is_the_runs() -> None:
    with pytest.raises(PermanentError, match="spent"):
        await played(served(failing(DOWN), "a"), served(failing(SPENT), "b"))


async def test_a_run_has_one_budget_for_all_its_steps_and_models() -> None:
    said: list[Said] = []
    for _ in range(6):  # each step fails once, and is answered at the second try
        said += [(DOWN,), (ToolCall("a", "double", {"n": 1}),)]
    books, retry = Books(), Retry(base=0.001, cap=0.001, budget=3)
    seen, error = await failed(AgentLoop(plan(served(answering(*said)), max_steps=20), TOOLS, books, retry))
    assert error is DOWN
    assert sum(isinstance(happening, Retrying) for happening in seen) == 3
    assert sum(isinstance(happening, StepEnded) for happening in seen) == 3


async def test_a_model_whose_circuit_is_open_is_not_even_asked() -> None:
    first = served(failing(DOWN), "first", rules=Rules(minimum=1, rest=600))
    first.gate.left(await first.gate.enter(), DOWN)
    happenings, books = await played(first, served(answering((TextDelta("ok"),)), "second"))
    assert books.models == ["second"]  # no hold for the first
    (fell_back,) = (happening for happening in happenings if isinstance(happening, FellBack))
    assert not fell_back.asked


async def test_a_cut_probe_gives_its_place_back() -> None:
    one = served(answering((TextDelta("a"), TextDelta("b"))), rules=Rules(minimum=1, rest=0.0, proofs=1))
    one.gate.left(await one.gate.enter(), DOWN)
    stream = AgentLoop(plan(one), TOOLS, Books(), QUICK).run(ASKED)
    await anext(stream)
    await stream.aclose()
    assert (await one.gate.enter()).probe


async def test_a_fallback_with_a_smaller_window_is_shown_less() -> None:
    said = Exchange.of((Turn("user", ({"type": "text", "text": "x" * 3000},)), Turn("assistant", ())))
    history = History((said, said))
    seen: list[ModelRequest] = []

    def script(request: ModelRequest) -> Said:
        seen.append(request)
        return (TextDelta("ok"),)

    small = served(Scripted(script), "small", window=6000, limit=50)
    happenings, _ = await played(served(failing(SPENT), "large"), small, history=history)
    assert len(seen[0].turns) == 3
    trimmed = [happening.history for happening in happenings if isinstance(happening, HistoryTrimmed)]
    assert trimmed == [{"exchanges": 1, "dropped": 1}]


async def test_a_step_keeps_its_moves_for_whoever_takes_the_run_over() -> None:
    second = answering((ToolCall("a", "double", {"n": 1}),), (TextDelta("done"),))
    happenings, _ = await played(served(failing(SPENT), "first"), served(second, "second"))
    (ended,) = (happening for happening in happenings if isinstance(happening, StepEnded))
    checkpoint = Checkpoint()
    checkpoint.add(ended.step, EventId(1, 9))
    assert checkpoint.unsaved is not None
    assert Checkpoint([checkpoint.unsaved]).fallbacks == tuple(moves(happenings))


FAILING = st.sampled_from([DOWN, SPENT, REFUSED, None])


@given(st.lists(FAILING, min_size=1, max_size=5))
async def test_the_first_model_that_can_answers(errors: list[ProviderError | None]) -> None:
    models = [
        served(answering((TextDelta("ok"),)) if error is None else failing(error), str(number))
        for number, error in enumerate(errors)
    ]
    decided = next((n for n, error in enumerate(errors) if error is None or error is REFUSED), len(errors) - 1)
    books = Books()
    loop = AgentLoop(plan(*models), TOOLS, books, QUICK)
    seen, error = await failed(loop)
    assert error is errors[decided]
    assert loop.serving is models[decided]
    assert [move.to_model for move in moves(seen)] == [str(n) for n in range(1, decided + 1)]
    books.check()
