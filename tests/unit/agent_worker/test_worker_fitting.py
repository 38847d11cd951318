from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from agent_worker.fitting import LARGEST_BYTES, fitted
from common.contracts import RunFinished
from common.contracts.base import now
from common.contracts.runs import RunMessage


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
