"""A span around the publish of a task, where traces are exported at all; else next to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from uuid import UUID

from opentelemetry import context, propagate, trace
from starlette.datastructures import Headers

from common.messaging.topology import TASKS, lane


class Tracing:
    """Traces of submissions. Server spans, and the traceparent that a client sends, are FastAPI's own when it is on."""

    def __init__(self, *, enabled: bool) -> None:
        self._tracer = trace.get_tracer(__name__) if enabled else None

    def receiving(self, headers: Headers) -> AbstractContextManager[None]:
        """The client's trace context, which the published message carries on even where we export nothing."""
        if self._tracer is not None or "traceparent" not in headers:
            return nullcontext()
        return _attached(headers)

    def publishing(self, task_id: UUID, tier: str) -> AbstractContextManager[object]:
        """The producer's span; the message carries its context."""
        if self._tracer is None:
            return nullcontext()
        return self._tracer.start_as_current_span(
            f"send {TASKS}",
            kind=trace.SpanKind.PRODUCER,
            attributes={
                "messaging.system": "rabbitmq",
                "messaging.operation.type": "send",
                "messaging.destination.name": TASKS,
                "messaging.rabbitmq.destination.routing_key": tier,
                "messaging.message.conversation_id": str(task_id),
                "laneway.lane": lane(tier),
            },
        )


@contextmanager
def _attached(headers: Headers) -> Iterator[None]:
    token = context.attach(propagate.extract(headers))
    try:
        yield
    finally:
        context.detach(token)
