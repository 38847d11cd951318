from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID, uuid4

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from agent_worker import telemetry
from agent_worker.providers.base import CallMeter, ModelRequest, TextDelta, TransientError
from agent_worker.providers.scripted import Scripted
from agent_worker.telemetry import Observed, processing
from common.contracts import TaskSubmitted
from common.contracts.base import now
from common.contracts.tasks import InputMessage

TASK = TaskSubmitted(
    task_id=uuid4(),
    tenant_id=uuid4(),
    tier="pro",
    level=30,
    priority=5,
    agent="default",
    input=(InputMessage(role="user", content="x"),),
    request_hash="",
    submitted_at=now(),
)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("test"))
    yield exporter
    provider.shutdown()


def request(model: str) -> ModelRequest:
    return ModelRequest(model, "", (), (), 10, None, UUID(int=1))


def seconds(model: str, outcome: str) -> float | None:
    labels = {"provider": "scripted", "model": model, "outcome": outcome}
    return REGISTRY.get_sample_value("laneway_model_call_seconds_count", labels)


async def test_a_task_links_to_its_publish_and_its_calls_are_below_it(spans: InMemorySpanExporter) -> None:
    headers: dict[str, object] = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "x-death": [{}], "n": 1}
    with processing(TASK, headers):
        async for _ in Observed(Scripted()).stream(request("m1"), CallMeter()):
            assert trace.get_current_span().get_span_context().is_valid
    call, process = spans.get_finished_spans()
    assert (process.name, process.kind, process.parent) == ("process tasks.pro", SpanKind.CONSUMER, None)
    assert [format(link.context.trace_id, "032x") for link in process.links] == ["a" * 32]
    assert call.parent is not None
    assert process.context is not None
    assert (call.name, call.parent.span_id) == ("chat m1", process.context.span_id)
    assert call.attributes is not None
    assert call.attributes["gen_ai.usage.output_tokens"] == 1
    assert call.attributes["gen_ai.response.finish_reasons"] == ("end_turn",)
    assert seconds("m1", "completed") == 1


async def test_a_call_that_fails_or_is_cut_says_so(spans: InMemorySpanExporter) -> None:
    failing = Observed(Scripted(lambda _: (TransientError("rate_limited", "slow down"),)))
    with pytest.raises(TransientError):
        await anext(failing.stream(request("m2"), CallMeter()))
    cut = Observed(Scripted(lambda _: (TextDelta("a"), TextDelta("b")))).stream(request("m2"), CallMeter())
    await anext(cut)
    await cut.aclose()
    assert [(s.attributes or {})["error.type"] for s in spans.get_finished_spans()] == ["rate_limited", "cut"]
    assert (seconds("m2", "rate_limited"), seconds("m2", "cut")) == (1, 1)


async def test_without_headers_and_without_an_exporter_nothing_is_needed() -> None:
    with processing(TASK, {}):
        assert not trace.get_current_span().is_recording()


async def test_what_a_provider_said_is_logged() -> None:
    error = TransientError("rate_limited", "the rate limit is reached", detail="in organization org-123")
    with capture_logs() as logs, pytest.raises(TransientError):
        await anext(Observed(Scripted(lambda _: (error,))).stream(request("m3"), CallMeter()))
    assert [(entry["event"], entry["detail"]) for entry in logs] == [("provider.failed", "in organization org-123")]
