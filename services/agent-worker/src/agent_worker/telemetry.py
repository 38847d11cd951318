"""Traces and metrics of the worker: a span for each task, linked to the request that submitted it, and for each call.

Without an exporter the spans are OpenTelemetry's own empty ones, and their attributes are not even computed.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager

import structlog
from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode

from agent_worker.metrics import CALL_SECONDS
from agent_worker.providers.base import CallMeter, ModelRequest, Piece, Provider, ProviderError
from common.contracts import TaskSubmitted
from common.messaging.topology import lane

_log = structlog.get_logger(__name__)
_tracer = trace.get_tracer("laneway.agent_worker")


@contextmanager
def processing(task: TaskSubmitted, headers: Mapping[str, object]) -> Iterator[None]:
    """The span of one delivery. It links to the publish, which may be hours ago, and is no child of it."""
    published = extract({name: value for name, value in headers.items() if isinstance(value, str)})
    origin = trace.get_current_span(published).get_span_context()
    queue = lane(task.tier)
    attributes = {
        "messaging.system": "rabbitmq",
        "messaging.operation.type": "process",
        "messaging.operation.name": "process",
        "messaging.destination.name": queue,
        "messaging.message.conversation_id": str(task.task_id),
        "laneway.tenant.id": str(task.tenant_id),
    }
    links = [Link(origin)] if origin.is_valid else []
    with _tracer.start_as_current_span(f"process {queue}", kind=SpanKind.CONSUMER, attributes=attributes, links=links):
        yield


class Observed:
    """A provider whose calls are timed and traced."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self.name = provider.name

    async def stream(self, request: ModelRequest, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        """See `Provider.stream`. A call that ends before its answer, and not by a fault, was `cut`."""
        # Not the current span: a generator is suspended and closed in contexts that are not its own.
        span = _tracer.start_span(f"chat {request.model}", kind=SpanKind.CLIENT)
        outcome, started = "cut", time.perf_counter()
        try:
            async with aclosing(self._provider.stream(request, meter)) as pieces:
                async for piece in pieces:
                    yield piece
            outcome = "completed"
        except ProviderError as error:
            outcome = error.reason
            _log.warning(
                "provider.failed", provider=self.name, model=request.model, reason=error.reason, detail=error.detail
            )
            raise
        finally:
            CALL_SECONDS.labels(self.name, request.model, outcome).observe(time.perf_counter() - started)
            if span.is_recording():
                _describe(span, self.name, request, meter, outcome)
            span.end()

    async def close(self) -> None:
        """See `Provider.close`."""
        await self._provider.close()


def _describe(span: Span, provider: str, request: ModelRequest, meter: CallMeter, outcome: str) -> None:
    span.set_attributes(
        {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": request.model,
            "gen_ai.request.max_tokens": request.max_output_tokens,
            "gen_ai.usage.input_tokens": meter.usage.total_input_tokens,
            "gen_ai.usage.output_tokens": meter.usage.output_tokens,
            "laneway.attempt.id": str(request.attempt_id),
            "laneway.usage.estimated": not meter.final,
        }
    )
    if outcome == "completed":
        span.set_attribute("gen_ai.response.finish_reasons", [meter.stop_reason])
        return
    span.set_attribute("error.type", outcome)
    span.set_status(Status(StatusCode.ERROR))
