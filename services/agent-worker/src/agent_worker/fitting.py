"""A run's end in the size of a broker message.

What is larger than the broker takes can never be published. The task's status always fits; of the rest that goes first
which can be read elsewhere: long tool results, which their steps' events have in full, then the messages, then a very
long output, which the events have too. The last step's events are recorded nowhere else, and are cut last.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import structlog

from common.contracts import RunFinished
from common.contracts.events import StreamEvent
from common.contracts.runs import RunError, RunMessage
from common.contracts.usage import Usage
from common.messaging import publisher

_log = structlog.get_logger(__name__)
LARGEST_BYTES = publisher.LARGEST_BYTES - 64 * 1024
_SHORTENED = (4_000, 200)
_LONGEST_TEXT = 4_000
# JSON makes six bytes of a character at most.
_LONGEST_OUTPUT = 150_000
_LONGEST_WORD = 200
_CUT = "\n[cut off: the record would be too large]"


def fitted(finished: RunFinished) -> RunFinished:
    """The same end, with as much of it as fits."""
    if _fits(finished):
        return finished
    _log.warning("run.record_shortened", task_id=str(finished.task_id))
    return next(filter(_fits, _ever_shorter(finished)), _bare(finished))


def _fits(finished: RunFinished) -> bool:
    return len(finished.encode()) <= LARGEST_BYTES


def _ever_shorter(finished: RunFinished) -> Iterator[RunFinished]:
    for limit in _SHORTENED:
        yield finished.model_copy(update={"messages": tuple(_message(m, limit) for m in finished.messages)})
    finished = finished.model_copy(update={"messages": ()})
    yield finished
    finished = finished.model_copy(update=_output(finished))
    yield finished
    events = tuple(event.model_copy(update={"data": _texts(event.data)}) for event in finished.events)
    yield finished.model_copy(update={"events": events, "error": _error(finished, _LONGEST_TEXT)})


def _bare(finished: RunFinished) -> RunFinished:
    """What fits whatever the run did: every field that has no bound of its own is cut to one."""
    known = {name: count for name, count in finished.usage if isinstance(count, int) and name in Usage.model_fields}
    return finished.model_copy(
        update={
            **_output(finished),
            "error": _error(finished, _LONGEST_WORD),
            "usage": Usage(**known),
            "messages": (),
            "events": tuple(_only_status(event, finished) for event in finished.events[-1:]),
        }
    )


def _only_status(done: StreamEvent, finished: RunFinished) -> StreamEvent:
    return done.model_copy(update={"data": {"status": finished.status}})


def _output(finished: RunFinished) -> dict[str, Any]:
    """The output, and whether it is still what its task asked for."""
    if finished.output is None or len(finished.output) <= _LONGEST_OUTPUT:
        return {}
    return {"output": _limited(finished.output, _LONGEST_OUTPUT), "structured": False}


def _error(finished: RunFinished, limit: int) -> RunError | None:
    error = finished.error
    return error and RunError(type=error.type[:_LONGEST_WORD], message=_limited(error.message, limit))


def _message(message: RunMessage, limit: int) -> RunMessage:
    return message.model_copy(update={"content": tuple(_block(block, limit) for block in message.content)})


def _block(block: dict[str, Any], limit: int) -> dict[str, Any]:
    if block["type"] != "tool_result":
        return block
    return {**block, "content": _limited(block["content"], limit)}


def _texts(value: Any) -> Any:
    """JSON with its texts shortened."""
    if isinstance(value, str):
        return _limited(value, _LONGEST_TEXT)
    if isinstance(value, dict):
        return {name: _texts(inner) for name, inner in value.items()}
    return [_texts(inner) for inner in value] if isinstance(value, list | tuple) else value


def _limited(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + _CUT
