"""Which runs may use answers that are known, what two requests must have in common, and how an answer is kept."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.providers.base import CallMeter, ModelRequest, Piece, TextDelta, ToolCall, ToolSpec, Turn
from agent_worker.response_cache import Answer, fingerprint, may_be_repeated
from agent_worker.tools.base import Tool, Toolbox
from common.contracts import TaskSubmitted
from common.contracts.base import now
from common.contracts.tasks import InputMessage

ASKED = ModelRequest(
    "m", "s", (Turn("user", ({"type": "text", "text": "hi"},)),), (ToolSpec("t", "d", {}),), 10, 0.0, UUID(int=1)
)
TASK = TaskSubmitted(
    task_id=uuid4(),
    tenant_id=uuid4(),
    tier="free",
    level=0,
    priority=0,
    agent="a",
    input=(InputMessage(role="user", content="hello"),),
    request_hash="",
    submitted_at=now(),
)


async def send() -> str:
    """Does something."""
    return ""


@pytest.mark.parametrize(
    ("temperature", "harmful", "changes", "may"),
    [
        (0.0, False, {}, True),
        (0, False, {}, True),
        (0.1, False, {}, False),
        (None, False, {}, False),
        (0.0, True, {}, False),
        (0.0, False, {"no_store": True}, False),
        (0.0, False, {"conversation_id": uuid4()}, False),
    ],
)
def test_only_what_leaves_nothing_to_chance(
    temperature: float | None, harmful: bool, changes: dict[str, object], may: bool
) -> None:
    tools = Toolbox({"send": Tool.of(send, side_effect=harmful)})
    assert may_be_repeated(TASK.model_copy(update=changes), temperature, tools) is may


@pytest.mark.parametrize(
    "other",
    [
        replace(ASKED, model="n"),
        replace(ASKED, system="t"),
        replace(ASKED, turns=(*ASKED.turns, Turn("assistant", ()))),
        replace(ASKED, tools=(ToolSpec("t", "e", {}),)),
        replace(ASKED, max_output_tokens=11),
        replace(ASKED, temperature=0.5),
        replace(ASKED, use_tools=False),
        replace(ASKED, response_schema={"type": "object"}),
    ],
)
def test_all_of_a_request_counts(other: ModelRequest) -> None:
    assert fingerprint(other) != fingerprint(ASKED)


def test_but_not_whose_it_is_nor_the_order_in_which_json_was_written() -> None:
    one = replace(ASKED, attempt_id=UUID(int=2), tools=(ToolSpec("t", "d", {"a": 1, "b": 2}),))
    assert fingerprint(one) == fingerprint(replace(ASKED, tools=(ToolSpec("t", "d", {"b": 2, "a": 1}),)))


PIECES = st.lists(
    st.builds(TextDelta, st.text())
    | st.builds(ToolCall, st.text(), st.text(), st.dictionaries(st.text(), st.integers(-9, 9) | st.text()))
)


@given(PIECES)
def test_what_was_kept_is_what_was_said(pieces: list[Piece]) -> None:
    found = Answer.read(Answer(tuple(pieces), "tool_use").write())
    assert found is not None
    texts = ["".join(p.text for p in said if isinstance(p, TextDelta)) for said in (pieces, found.pieces)]
    assert texts[0] == texts[1]
    assert [p for p in pieces if isinstance(p, ToolCall)] == [p for p in found.pieces if isinstance(p, ToolCall)]
    found.note(meter := CallMeter())
    assert (meter.stop_reason, meter.usage.total_input_tokens, meter.usage.cached_calls) == ("tool_use", 0, 1)


@pytest.mark.parametrize("written", [b"", b"x", b"5", b"[]", b'["end_turn", 5]', b'["end_turn", [["text"]]]', b"{}"])
def test_what_is_something_else_is_no_answer(written: bytes) -> None:
    assert Answer.read(written) is None
