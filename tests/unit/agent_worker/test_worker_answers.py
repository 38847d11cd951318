"""Answers with a form: asked for anew once where they do not match, and how each provider is asked for them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from agent_worker import conversing
from agent_worker.checkpoint import Checkpoint
from agent_worker.endings import Ending, run_error
from agent_worker.happenings import Answered, Happening, Repairing, ResponseMismatchError, StepEnded
from agent_worker.loop import AgentLoop
from agent_worker.plan import Plan
from agent_worker.providers import anthropic, openai_chat, openai_responses
from agent_worker.providers.base import CallMeter, ModelRequest, TextDelta, ToolCall, Turn
from agent_worker.providers.schemas import closed, is_strict, one_type_each
from agent_worker.providers.scripted import Scripted
from agent_worker.resilience.retry import Retry
from agent_worker.sizes import overhead
from agent_worker.telling import event_of
from agent_worker.tools.base import Toolbox
from common.answer_schema import AnswerForm
from common.contracts import TaskSubmitted
from common.contracts.base import now
from common.contracts.events import EventId
from common.contracts.tasks import InputMessage
from simulator.dialects.anthropic import Messages
from simulator.dialects.base import Dialect
from simulator.dialects.chat import Chat
from simulator.dialects.responses import Responses
from simulator.schemas import instance
from tests.unit.agent_worker.serving import plan, served
from tests.unit.agent_worker.test_worker_loop import ASKED, TOOLS, Books, Said

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "minLength": 2}},
    "required": ["city"],
}
GOOD, BAD = TextDelta('{"city": "Wien"}'), TextDelta('{"city": 1}')


def with_form(planned: Plan) -> Plan:
    return replace(planned, form=AnswerForm(SCHEMA))


class Heard:
    """A script that remembers what it was asked."""

    def __init__(self, *answers: Said) -> None:
        self.requests: list[ModelRequest] = []
        self._answers = answers

    def __call__(self, request: ModelRequest) -> Said:
        self.requests.append(request)
        return self._answers[len(self.requests) - 1]


async def played(
    heard: Heard, *, repaired: bool = False, **planned: Any
) -> tuple[list[Happening | ResponseMismatchError], Books]:
    books, seen = Books(), list[Happening | ResponseMismatchError]()
    loop = AgentLoop(with_form(plan(served(Scripted(heard)), **planned)), TOOLS, books, Retry(base=0.001))
    try:
        async for happening in loop.run(ASKED, repaired=repaired):
            seen.append(happening)
    except ResponseMismatchError as error:
        seen.append(error)
    books.check()
    return seen, books


async def test_an_answer_that_matches_stands() -> None:
    heard = Heard((GOOD,))
    seen, books = await played(heard)
    assert isinstance(seen[-1], Answered)
    assert (seen[-1].text, len(books.begun)) == (GOOD.text, 1)
    assert heard.requests[0].response_schema == SCHEMA


async def test_one_that_does_not_is_asked_for_anew_with_what_is_wrong() -> None:
    heard = Heard((BAD,), (GOOD,))
    seen, books = await played(heard)
    (repairing,) = (one for one in seen if isinstance(one, Repairing))
    assert repairing.problem == 'at /city: 1 is not of type "string"'
    assert event_of(repairing) == ("status", {"status": "running", "step": 1, "repairing": repairing.problem})
    said, told = heard.requests[1].turns[-2:]
    assert (said.role, said.content[0]["text"]) == ("assistant", BAD.text)
    assert told.role == "user"
    assert repairing.problem in told.content[0]["text"]
    ended, answered = (one for one in seen if isinstance(one, StepEnded | Answered))
    assert isinstance(ended, StepEnded)
    assert isinstance(answered, Answered)
    assert (ended.step.number, answered.step.number, answered.text) == (1, 2, GOOD.text)
    assert len(books.begun) == len(books.recorded) == 2  # held and recorded as any call


@pytest.mark.parametrize("repaired", [False, True], ids=["in this worker", "after a takeover"])
async def test_there_is_one_repair(repaired: bool) -> None:
    answers = [(BAD,)] if repaired else [(BAD,), (BAD,)]
    seen, books = await played(Heard(*answers), repaired=repaired)
    error = seen[-1]
    assert isinstance(error, ResponseMismatchError)
    assert len(books.begun) == len(answers)
    told = run_error(error, "m")
    assert told.type == "response_does_not_match"
    assert told.message == 'the answer does not match `response_schema`: at /city: 1 is not of type "string"'


async def test_the_repair_comes_on_top_of_the_steps_and_the_tools_are_before_it() -> None:
    heard = Heard((ToolCall("a", "double", {"n": 1}),), (BAD,), (GOOD,))
    seen, _ = await played(heard, max_steps=2)
    assert isinstance(seen[-1], Answered)
    assert [request.use_tools for request in heard.requests] == [True, False, False]


async def test_a_refusal_is_not_asked_again() -> None:
    class Refusing(Scripted):
        async def stream(self, request: ModelRequest, meter: CallMeter):  # type: ignore[no-untyped-def]
            async for piece in super().stream(request, meter):
                yield piece
            meter.stop_reason = "refusal"

    books = Books()
    refusing = Refusing(lambda _: (TextDelta("I would rather not."),))
    loop = AgentLoop(with_form(plan(served(refusing))), TOOLS, books, Retry())
    with pytest.raises(ResponseMismatchError, match="a refusal"):
        _ = [happening async for happening in loop.run(ASKED)]
    assert len(books.begun) == 1


async def test_what_was_sent_back_survives_a_takeover_and_is_not_remembered() -> None:
    seen, _ = await played(Heard((BAD,), (GOOD,)))
    (ended,) = (one for one in seen if isinstance(one, StepEnded))
    checkpoint = Checkpoint()
    checkpoint.add(ended.step, EventId(1, 9))
    assert checkpoint.unsaved is not None
    taken_over = Checkpoint([checkpoint.unsaved])
    assert taken_over.repaired
    assert taken_over.turns == ended.step.turns
    task = TaskSubmitted(
        task_id=uuid4(),
        tenant_id=uuid4(),
        tier="free",
        level=0,
        priority=0,
        agent="a",
        input=(InputMessage(role="user", content="hello"),),
        conversation_id=uuid4(),
        request_hash="",
        submitted_at=now(),
    )
    assert isinstance(seen[-1], Answered)
    exchange = conversing.exchange(task, taken_over, Ending("completed", seen[-1].step))
    assert exchange is not None
    assert [turn.content[0]["text"] for turn in exchange.turns] == ["hello", GOOD.text]


# ---- What the providers are asked

WIDE: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "title": "t",
    "properties": {
        "a": {"type": ["object", "null"], "description": "d", "properties": {"x": {"type": "integer", "minimum": 1}}},
        "b": {"type": "array", "items": {"$ref": "#/$defs/c"}, "minItems": 1},
        "d": {"type": "string", "format": "date", "maxLength": 20},
        "e": {"enum": ["x", None]},
    },
    "required": ["b"],
    "$defs": {"c": {"anyOf": [{"type": "string"}, {"type": "boolean"}]}},
}
STRICT: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def request(schema: dict[str, Any]) -> ModelRequest:
    turns = (Turn("user", ({"type": "text", "text": "hi"},)),)
    return ModelRequest("m", "s", turns, (), 100, None, UUID(int=0), response_schema=schema)


@pytest.mark.parametrize("schema", [WIDE, STRICT, SCHEMA])
def test_each_provider_is_asked_for_a_schema_that_it_takes_and_the_bound_covers_it(schema: dict[str, Any]) -> None:
    AnswerForm(schema)
    asked: list[tuple[Dialect, dict[str, Any]]] = [
        (Messages(), anthropic._arguments(request(schema))),
        (Chat(), openai_chat._arguments(request(schema))),
        (Responses(), openai_responses._arguments(request(schema))),
    ]
    for dialect, arguments in asked:
        body = json.loads(json.dumps({k: v for k, v in arguments.items() if k != "extra_headers"}))
        conversation = dialect.read(body)  # it refuses what the provider would
        assert conversation.schema is not None
        assert AnswerForm(schema).problem(json.dumps(instance(conversation.schema))) is None
        assert len(json.dumps(conversation.schema)) <= overhead((), Toolbox({}), schema) - overhead((), Toolbox({}))


def test_openai_is_asked_strictly_where_it_can_be() -> None:
    strict = [openai_chat._arguments(request(s))["response_format"]["json_schema"]["strict"] for s in (STRICT, WIDE)]
    assert strict == [True, False]
    assert is_strict(closed(STRICT))


def test_a_choice_of_types_does_not_grow_with_every_level() -> None:
    part: dict[str, Any] = {"type": "string"}
    for _ in range(8):
        types = ["object", "array", "string", "integer", "number", "boolean", "null"]
        part = {"type": types, "properties": {"a": part}}
    assert len(json.dumps(one_type_each(closed(part)))) < 4 * len(json.dumps(part))
