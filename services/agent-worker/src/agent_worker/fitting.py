"""A run's end in the size of a broker message.

What is larger than the broker takes would be published in vain for ever. The task's status, output and usage always
fit; of its messages the long tool results are shortened first, as their steps' events have them in full.
"""

from __future__ import annotations

from typing import Any

import structlog

from common.contracts import RunFinished
from common.contracts.runs import RunMessage

_log = structlog.get_logger(__name__)
# The broker is set to 1 MiB; some of it is for the envelope.
LARGEST_BYTES = 960 * 1024
_SHORTENED = (4_000, 200)
_LONGEST_OUTPUT = 150_000
_CUT = "\n[cut off: the record would be too large]"


def fitted(finished: RunFinished) -> RunFinished:
    """The same end, with as much of its messages as fits."""
    if len(finished.encode()) <= LARGEST_BYTES:
        return finished
    _log.warning("run.record_shortened", task_id=str(finished.task_id))
    for limit in _SHORTENED:
        shorter = finished.model_copy(update={"messages": tuple(_shortened(m, limit) for m in finished.messages)})
        if len(shorter.encode()) <= LARGEST_BYTES:
            return shorter
    bare = finished.model_copy(update={"messages": ()})
    if len(bare.encode()) <= LARGEST_BYTES or bare.output is None:
        return bare
    return bare.model_copy(update={"output": _limited(bare.output, _LONGEST_OUTPUT)})


def _shortened(message: RunMessage, limit: int) -> RunMessage:
    return message.model_copy(update={"content": tuple(_block(block, limit) for block in message.content)})


def _block(block: dict[str, Any], limit: int) -> dict[str, Any]:
    if block["type"] != "tool_result":
        return block
    return {**block, "content": _limited(block["content"], limit)}


def _limited(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + _CUT
