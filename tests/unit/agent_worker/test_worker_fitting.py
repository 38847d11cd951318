from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent_worker.fitting import LARGEST_BYTES, fitted
from common.contracts import RunFinished
from common.contracts.base import now
from common.contracts.events import StreamEvent
from common.contracts.runs import RunError, RunMessage
from common.contracts.usage import Usage


def end(output: str, *contents: str) -> RunFinished:
    messages = [RunMessage(step=1, role="assistant", content=({"type": "text", "text": output},))]
    for content in contents:
        block: dict[str, Any] = {"type": "tool_result", "id": "1", "name": "t", "content": content, "is_error": False}
        messages.append(RunMessage(step=1, role="tool", content=(block,)))
    return RunFinished(
        task_id=uuid4(),
        tenant_id=uuid4(),
        tier="free",
        fence=1,
        status="completed",
        output=output,
        messages=tuple(messages),
        finished_at=now(),
    )


def test_what_fits_is_left_alone() -> None:
    finished = end("hi", "x" * 32_000)
    assert fitted(finished) is finished


@pytest.mark.parametrize(
    ("finished", "messages"),
    [
        (end("hi", *["x" * 32_000] * 100), 101),
        (end("hi", *["\x01" * 32_000] * 300), 301),
        (end("o" * 500_000), 0),
    ],
)
def test_the_output_is_kept_and_the_messages_as_far_as_they_fit(finished: RunFinished, messages: int) -> None:
    fit = fitted(finished)
    assert len(fit.encode()) <= LARGEST_BYTES
    assert fit.output == finished.output
    assert len(fit.messages) == messages


def test_even_an_output_of_control_characters_fits() -> None:
    fit = fitted(end("\x01" * 2_000_000))
    assert len(fit.encode()) <= LARGEST_BYTES
    assert fit.output is not None
    assert fit.output.endswith("too large]")


SIZES = st.one_of(st.integers(0, 2_000), st.integers(100_000, 1_100_000))
TEXTS = st.builds(lambda character, size: character * size, st.sampled_from('x\x01é😀"'), SIZES)
COUNTS = st.sampled_from([0, 1, 3])
DATA = st.dictionaries(st.sampled_from(["text", "error", "arguments"]), TEXTS | st.lists(TEXTS, max_size=2), max_size=2)


@settings(max_examples=40)
@given(TEXTS, TEXTS, TEXTS, DATA, COUNTS, COUNTS, st.dictionaries(st.just("new_class"), TEXTS))
def test_whatever_a_run_did_its_end_fits(
    output: str, word: str, said: str, data: dict[str, Any], events: int, messages: int, extra: dict[str, Any]
) -> None:
    at = now()
    many = [StreamEvent(fence=1, seq=seq, type="token", at=at, data=data) for seq in range(1, events + 1)]
    done = StreamEvent(fence=1, seq=events + 1, type="done", at=at, data={"status": "failed", **data})
    block = {"type": "tool_call", "id": "1", "name": "t", "arguments": data}
    finished = end(output, "short").model_copy(
        update={
            "error": RunError(type=word, message=said),
            "events": (*many, done),
            "messages": (RunMessage(step=1, role="assistant", content=(block,)),) * messages,
            "usage": Usage(input_tokens=7, **extra),
        }
    )
    fit = fitted(finished)
    assert len(fit.encode()) <= LARGEST_BYTES
    assert (fit.status, fit.usage.input_tokens, fit.events[-1].type) == (finished.status, 7, "done")


def test_an_error_of_any_length_leaves_the_rest_alone() -> None:
    long = RunError(type="provider_refused_request", message="x" * 400_000)
    told = {"type": long.type, "message": long.message}
    events = tuple(
        StreamEvent(fence=1, seq=seq, type=kind, at=now(), data=data)
        for seq, (kind, data) in enumerate([("error", told), ("done", {"status": "failed", "error": told})], 1)
    )
    fit = fitted(end("hi").model_copy(update={"error": long, "events": events}))
    assert len(fit.encode()) <= LARGEST_BYTES
    assert [event.type for event in fit.events] == ["error", "done"]
    assert fit.error is not None
    assert fit.error.type == long.type
