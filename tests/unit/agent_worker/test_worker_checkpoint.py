from __future__ import annotations

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from agent_worker.checkpoint import Checkpoint
from agent_worker.happenings import Step
from agent_worker.providers.base import Turn
from agent_worker.repository import SavedStep
from common.contracts.events import EventId
from common.contracts.usage import Usage

TEXT = st.text(max_size=20)
ARGUMENTS: st.SearchStrategy[dict[str, Any]] = st.dictionaries(TEXT, TEXT | st.integers(-(2**60), 2**60), max_size=3)
BLOCKS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(lambda text: {"type": "text", "text": text}, TEXT),
    st.builds(lambda i, n, a: {"type": "tool_call", "id": i, "name": n, "arguments": a}, TEXT, TEXT, ARGUMENTS),
    st.builds(
        lambda i, n, c, e: {"type": "tool_result", "id": i, "name": n, "content": c, "is_error": e},
        *(TEXT, TEXT, TEXT, st.booleans()),
    ),
)
TURNS = st.builds(Turn, st.sampled_from(["assistant", "tool"]), st.lists(BLOCKS, max_size=3).map(tuple))
USAGES = st.builds(
    Usage,
    input_tokens=st.integers(0, 10**6),
    cache_read_tokens=st.integers(0, 10**6),
    output_tokens=st.integers(0, 10**6),
    server_tool_calls=st.dictionaries(TEXT, st.integers(0, 9), max_size=2),
    service_tier=st.none() | TEXT,
)


@given(st.lists(st.tuples(st.lists(TURNS, max_size=3).map(tuple), USAGES), max_size=4))
def test_what_was_saved_is_taken_up_again(parts: list[tuple[tuple[Turn, ...], Usage]]) -> None:
    before = Checkpoint()
    stored = []
    for number, (turns, usage) in enumerate(parts, 1):
        assert before.next_step == number
        before.add(Step(number, turns, usage), EventId(1, number * 3))
        assert before.unsaved is not None
        state = orjson.loads(orjson.dumps(before.unsaved.state))  # as PostgreSQL keeps it
        stored.append(SavedStep(before.unsaved.number, before.unsaved.fence, before.unsaved.last_seq, state))
        before.saved()
        assert before.unsaved is None
    after = Checkpoint(stored)
    assert after.next_step == before.next_step
    assert after.turns == before.turns
    assert after.usage == before.usage
    assert after.messages(None) == before.messages(None)
    assert after.stands_until == (EventId(1, len(parts) * 3) if parts else None)


def test_the_last_step_is_part_of_the_messages() -> None:
    last = Step(1, (Turn("assistant", ({"type": "text", "text": "hi"},)),), Usage())
    (message,) = Checkpoint().messages(last)
    assert (message.step, message.role, message.content) == (1, "assistant", ({"type": "text", "text": "hi"},))
