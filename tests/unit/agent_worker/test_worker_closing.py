"""A run that reaches a limit is asked to wrap up, and not cut."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.endings import run_error
from agent_worker.happenings import Answered, Happening, LimitReachedError, StepEnded, ToolStarted, WrappingUp
from agent_worker.loop import AgentLoop
from agent_worker.providers.base import ModelRequest, TextDelta, ToolCall
from agent_worker.providers.scripted import Scripted
from agent_worker.resilience.closing import WRAP_UP, Limit, RunLimits
from agent_worker.resilience.retry import Retry
from agent_worker.tools.base import Toolbox
from common.contracts.usage import Usage
from tests.unit.agent_worker.serving import plan, served
from tests.unit.agent_worker.test_worker_loop import ASKED, TOOLS, Books, Said

LIMITS = RunLimits(max_steps=5, max_tokens=1000, seconds=100)
CALL = ToolCall("a", "double", {"n": 1})


@pytest.mark.parametrize(
    ("step", "tokens", "passed", "limit"),
    [
        (4, 999, 79.9, None),
        (5, 0, 0, "max_steps"),
        (6, 0, 0, "max_steps"),
        (1, 1000, 0, "max_run_tokens"),
        (1, 0, 80, "timeout"),
    ],
)
def test_which_limit_is_reached(step: int, tokens: int, passed: float, limit: str | None) -> None:
    assert LIMITS.reached(step, Usage(input_tokens=tokens // 2, output_tokens=tokens - tokens // 2), passed) == limit


@given(st.integers(1, 30), st.integers(0, 2000), st.floats(0, 200), st.integers(0, 50))
def test_a_limit_that_is_reached_stays_reached(step: int, tokens: int, passed: float, more: int) -> None:
    if LIMITS.reached(step, Usage(output_tokens=tokens), passed) is not None:
        assert LIMITS.reached(step + more, Usage(output_tokens=tokens + more), passed + more) is not None


class Model:
    """Calls a tool for as long as it may, and then says what it is told to."""

    def __init__(self, *last: TextDelta | ToolCall) -> None:
        self._last = last
        self.requests: list[ModelRequest] = []

    def script(self, request: ModelRequest) -> Said:
        self.requests.append(request)
        return (CALL,) if request.use_tools else self._last


async def played(
    model: Model, max_steps: int = 3, tools: Toolbox = TOOLS, max_tokens: int | None = None
) -> list[Happening]:
    books = Books()
    asked = plan(served(Scripted(model.script)), max_steps=max_steps, max_tokens=max_tokens)
    happenings = [happening async for happening in AgentLoop(asked, tools, books, Retry()).run(ASKED)]
    books.check()
    return happenings


async def test_the_last_step_is_for_the_answer() -> None:
    model = Model(TextDelta("as far as I know"))
    happenings = await played(model)
    answered = happenings[-1]
    assert isinstance(answered, Answered)
    assert (answered.text, answered.step.number) == ("as far as I know", 3)
    assert [request.use_tools for request in model.requests] == [True, True, False]
    assert [WRAP_UP in request.instructions for request in model.requests] == [False, False, True]
    assert model.requests[2].system.startswith("be brief")
    assert model.requests[2].tools == TOOLS.specs  # what was said of them stays readable
    assert [h for h in happenings if isinstance(h, WrappingUp)] == [WrappingUp(3, "max_steps")]
    assert sum(isinstance(happening, ToolStarted) for happening in happenings) == 2


async def test_what_it_calls_all_the_same_is_not_run_and_no_part_of_what_was_said() -> None:
    happenings = await played(Model(TextDelta("enough"), CALL))
    answered = happenings[-1]
    assert isinstance(answered, Answered)
    assert answered.text == "enough"
    assert [block["type"] for turn in answered.step.turns for block in turn.content] == ["text"]
    assert sum(isinstance(happening, ToolStarted) for happening in happenings) == 2


async def test_a_model_that_calls_tools_for_ever_ends_with_a_clear_error() -> None:
    with pytest.raises(LimitReachedError) as caught:
        await played(Model(TextDelta(" "), CALL))
    error = run_error(caught.value, "m")
    assert (error.type, error.message) == (
        "max_steps_reached",
        "the model gave no answer in its last step: the run had reached its max_steps",
    )


@pytest.mark.parametrize(
    ("limit", "kind"),
    [
        ("max_steps", "max_steps_reached"),
        ("max_run_tokens", "max_run_tokens_reached"),
        ("max_output_bytes", "max_output_bytes_reached"),
        ("timeout", "timeout"),
    ],
)
def test_each_limit_has_its_error(limit: Limit, kind: str) -> None:
    assert run_error(LimitReachedError(limit), "m").type == kind


async def test_tokens_of_the_whole_run_are_limited() -> None:
    happenings = await played(Model(TextDelta("ok")), max_steps=50, max_tokens=8)
    (wrapping,) = (happening for happening in happenings if isinstance(happening, WrappingUp))
    assert wrapping.wrapping_up == "max_run_tokens"
    used = sum((h.step.usage for h in happenings if isinstance(h, StepEnded)), Usage())
    assert used.total_input_tokens + used.output_tokens >= 8
    assert isinstance(happenings[-1], Answered)


@pytest.mark.parametrize(("used", "passed", "limit"), [(8, 0.0, "max_run_tokens"), (0, 90.0, "timeout")])
async def test_what_earlier_workers_used_counts(used: int, passed: float, limit: str) -> None:
    model = Model(TextDelta("ok"))
    asked = replace(plan(served(Scripted(model.script))), limits=RunLimits(50, 8, 100.0))
    loop = AgentLoop(asked, TOOLS, Books(), Retry())
    happenings = [h async for h in loop.run(ASKED, used=Usage(output_tokens=used), passed=passed)]
    assert happenings[0] == WrappingUp(1, limit)  # type: ignore[arg-type]


async def test_a_model_without_tools_is_told_nothing() -> None:
    model = Model()
    seen: list[ModelRequest] = []

    def script(request: ModelRequest) -> Said:
        seen.append(request)
        return (TextDelta("ok"),)

    model.script = script  # type: ignore[method-assign]
    happenings = await played(model, max_steps=1, tools=Toolbox({}))
    assert not [happening for happening in happenings if isinstance(happening, WrappingUp)]
    assert WRAP_UP not in seen[0].system
