"""The providers through the real SDKs, against the simulator: what they say, what they count, and how they fail."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from agent_worker.metering import settle_meter
from agent_worker.providers.anthropic import AnthropicMessages
from agent_worker.providers.base import (
    Block,
    CallMeter,
    ModelRequest,
    PermanentError,
    Piece,
    Provider,
    ProviderError,
    TextDelta,
    ToolCall,
    TransientError,
    Turn,
)
from agent_worker.providers.openai import client
from agent_worker.providers.openai_chat import OpenAIChat
from agent_worker.providers.openai_responses import OpenAIResponses
from agent_worker.tools.base import Toolbox
from agent_worker.tools.builtin import builtin_tools
from tests.stage import eventually

TOOLS = Toolbox(builtin_tools()).specs
APIS = ("messages", "chat", "responses")
SILENCE_SECONDS = 0.5


def connected(api: str, url: str, key: str = "any", silence: float = SILENCE_SECONDS) -> Provider:
    timeout = httpx2.Timeout(silence, connect=5.0)
    if api == "messages":
        return AnthropicMessages(key, url, timeout, 4)
    shared = client(key, f"{url}/v1", timeout, 4)
    return OpenAIChat(shared) if api == "chat" else OpenAIResponses(shared)


@pytest.fixture(params=APIS)
async def provider(request: pytest.FixtureRequest, simulator: str) -> AsyncIterator[Provider]:
    made = connected(request.param, simulator)
    yield made
    await made.close()


def asking(text: str, *, limit: int = 200, temperature: float | None = None) -> ModelRequest:
    turns = (Turn("user", ({"type": "text", "text": text},)),)
    return ModelRequest("some-model", "be brief", turns, TOOLS, limit, temperature, uuid4())


async def ask(provider: Provider, request: ModelRequest) -> tuple[list[Piece], CallMeter]:
    meter = CallMeter()
    async with aclosing(provider.stream(request, meter)) as stream:
        return [piece async for piece in stream], meter


async def fail(provider: Provider, directive: str, limit: int = 200) -> tuple[ProviderError, list[Piece], CallMeter]:
    meter, pieces = CallMeter(), []
    with pytest.raises(ProviderError) as caught:  # noqa: PT012 - what came before the failure is a part of it
        async with aclosing(provider.stream(asking(f"[[sim {directive}]] hi", limit=limit), meter)) as stream:
            async for piece in stream:
                pieces.append(piece)
    return caught.value, pieces, meter


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces if isinstance(piece, TextDelta))


async def audited(control: httpx2.AsyncClient, attempt: UUID) -> dict[str, Any]:
    async def found() -> list[dict[str, Any]]:
        calls: list[dict[str, Any]] = (
            await control.get("/control/audit", params={"client_request_id": str(attempt)})
        ).json()["calls"]
        return calls

    (call,) = await eventually(found)
    return call


async def test_text_usage_and_the_attempts_id(provider: Provider, control: httpx2.AsyncClient) -> None:
    request = asking('[[sim text="Grüezi mitenand"]] hi')
    pieces, meter = await ask(provider, request)
    assert text(pieces) == "Grüezi mitenand"
    assert (meter.stop_reason, meter.complete, meter.final, meter.estimated) == ("end_turn", True, True, False)
    call = await audited(control, request.attempt_id)
    assert call["outcome"] == "completed"
    assert call["request_id"] == meter.request_id
    assert meter.usage.input_tokens == call["input_tokens"]
    assert meter.usage.output_tokens == call["output_tokens"]
    assert meter.received_bytes == len("Grüezi mitenand".encode())


async def test_cached_tokens_are_counted_once(provider: Provider, control: httpx2.AsyncClient) -> None:
    request = asking("[[sim cached=700 cache_write=300 reasoning=20 tokens=10]] hi")
    _, meter = await ask(provider, request)
    call = await audited(control, request.attempt_id)
    usage = meter.usage
    assert (usage.cache_read_tokens, usage.cache_write_5m_tokens, usage.cache_write_1h_tokens) == (700, 300, 0)
    assert (usage.output_tokens, usage.reasoning_tokens) == (30, 20)
    assert usage.input_tokens == call["input_tokens"]
    assert usage.total_input_tokens == call["input_tokens"] + 1000


async def test_parallel_tool_calls(provider: Provider) -> None:
    pieces, meter = await ask(
        provider,
        asking(
            '[[sim tool=calculator:{"expression":"2 * 21"} tool=current_time tool=calculator:{"expression":"é"}]] hi'
        ),
    )
    calls = [piece for piece in pieces if isinstance(piece, ToolCall)]
    assert [(call.name, call.arguments, call.malformed) for call in calls] == [
        ("calculator", {"expression": "2 * 21"}, None),
        ("current_time", {}, None),
        ("calculator", {"expression": "é"}, None),
    ]
    assert len({call.id for call in calls}) == 3
    assert meter.stop_reason == "tool_use"
    assert meter.final


async def test_a_whole_conversation_goes_back(provider: Provider) -> None:
    blocks: tuple[Block, ...] = (
        {"type": "tool_call", "id": "c1", "name": "calculator", "arguments": {"expression": "1"}},
        {"type": "tool_call", "id": "c2", "name": "current_time", "arguments": {}},
    )
    results: tuple[Block, ...] = (
        {"type": "tool_result", "id": "c1", "name": "calculator", "content": "1", "is_error": False},
        {"type": "tool_result", "id": "c2", "name": "current_time", "content": "no", "is_error": True},
    )
    turns = (
        Turn("user", ({"type": "text", "text": '[[sim tool=calculator text="all seen"]] go'},)),
        Turn("assistant", ()),
        Turn("assistant", ({"type": "text", "text": "well"}, *blocks)),
        Turn("tool", results),
    )
    pieces, _ = await ask(provider, ModelRequest("m", "", turns, TOOLS, 100, 0.0, uuid4()))
    assert text(pieces) == "all seen"


async def test_a_model_that_is_to_wrap_up_calls_no_tools(provider: Provider) -> None:
    request = asking('[[sim tool=calculator text="that is all"]] hi')
    pieces, meter = await ask(provider, replace(request, use_tools=False))
    assert (text(pieces), meter.stop_reason) == ("that is all", "end_turn")
    assert not [piece for piece in pieces if isinstance(piece, ToolCall)]


async def test_max_tokens(provider: Provider) -> None:
    pieces, meter = await ask(provider, asking("[[sim tokens=50]] hi", limit=7))
    assert (meter.stop_reason, meter.usage.output_tokens, len(pieces)) == ("max_tokens", 7, 7)


async def test_no_provider_fails_for_a_temperature(provider: Provider) -> None:
    _, meter = await ask(provider, asking("hi", temperature=2.0))
    assert meter.final


@pytest.mark.parametrize(
    ("directive", "kind", "reason"),
    [
        ("fault=429 retry_after=7", TransientError, "rate_limited"),
        ("fault=500", TransientError, "provider_unavailable"),
        ("fault=529", TransientError, "provider_unavailable"),
        ("fault=400", PermanentError, "provider_refused_request"),
        ("fault=401", PermanentError, "provider_refused_credentials"),
        ("fault=stall", TransientError, "provider_timeout"),
        ("fault=cut", TransientError, None),
        ("fault=malformed", TransientError, None),
        ("fault=error_event", TransientError, None),
    ],
)
async def test_faults_before_the_first_token(
    provider: Provider, directive: str, kind: type[ProviderError], reason: str | None
) -> None:
    error, pieces, meter = await fail(provider, directive)
    assert type(error) is kind, error
    assert reason in (None, error.reason)
    assert pieces == []
    assert not meter.complete
    assert error.retry_after == (7.0 if "429" in directive else None)


@pytest.mark.parametrize("api", ["chat", "responses"])
async def test_a_spent_quota_is_permanent(simulator: str, api: str) -> None:
    provider = connected(api, simulator)
    error, _, _ = await fail(provider, "fault=429 quota=true")
    assert (type(error), error.reason) == (PermanentError, "provider_quota_exhausted")
    await provider.close()


@pytest.mark.parametrize("fault", ["stall", "cut", "malformed", "error_event"])
async def test_faults_in_mid_stream_leave_an_estimate(provider: Provider, fault: str) -> None:
    error, pieces, meter = await fail(provider, f"fault={fault} fault_after=6 tokens=40")
    assert isinstance(error, TransientError), error
    assert len(pieces) == 6
    assert meter.accepted
    assert not meter.final
    settle_meter(meter, 1000, 200)
    assert meter.estimated
    assert meter.usage.output_tokens >= 6
    assert 0 < meter.usage.total_input_tokens <= 1000


async def test_half_a_tool_call_is_none(provider: Provider) -> None:
    error, pieces, _ = await fail(
        provider, 'fault=cut fault_after=8 tool=calculator:{"expression":"1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1 + 1"}'
    )
    assert isinstance(error, TransientError)
    assert pieces == []


@pytest.mark.parametrize("api", APIS)
async def test_a_server_that_is_not_there(api: str, unused_tcp_port: int) -> None:
    provider = connected(api, f"http://127.0.0.1:{unused_tcp_port}")
    error, _, meter = await fail(provider, "tokens=1")
    assert isinstance(error, TransientError)
    assert error.refused
    assert not meter.accepted
    await provider.close()


@pytest.mark.parametrize("api", APIS)
async def test_a_refused_key(simulator: str, api: str) -> None:
    provider = connected(api, simulator, key="invalid")
    error, _, _ = await fail(provider, "tokens=1")
    assert (type(error), error.reason) == (PermanentError, "provider_refused_credentials")
    await provider.close()


async def test_closing_the_stream_cuts_the_call(provider: Provider, control: httpx2.AsyncClient) -> None:
    request, meter = asking("[[sim tokens=2000 tps=40]] hi", limit=4000), CallMeter()
    async with aclosing(provider.stream(request, meter)) as stream:
        await anext(stream)
    async with asyncio.timeout(15):
        call = await audited(control, request.attempt_id)
    assert call["outcome"] == "client_gone"
    assert call["output_tokens"] < 1000
    assert meter.accepted
    assert not meter.final


async def test_cancelling_the_task_cuts_the_call(provider: Provider, control: httpx2.AsyncClient) -> None:
    request = asking("[[sim tokens=2000 ttft=30]] hi", limit=4000)
    task = asyncio.create_task(ask(provider, request))

    async def in_flight() -> bool:
        return bool((await control.get("/control/audit", params={"totals": "1"})).json()["totals"]["in_flight"])

    await eventually(in_flight)
    task.cancel()
    await asyncio.wait({task})
    async with asyncio.timeout(15):
        assert (await audited(control, request.attempt_id))["outcome"] == "client_gone"


@pytest.mark.parametrize("api", APIS)
async def test_a_server_that_hangs_up_on_a_request_may_have_served_it(api: str) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        provider = connected(api, f"http://127.0.0.1:{port}", silence=30)
        with pytest.raises(TransientError) as failed:
            await ask(provider, asking("Who knows?"))
        await provider.close()
    assert (failed.value.reason, failed.value.refused) == ("provider_unavailable", False)


@pytest.mark.parametrize("api", APIS)
async def test_a_server_that_is_not_there_has_served_nothing(api: str, unused_tcp_port: int) -> None:
    provider = connected(api, f"http://127.0.0.1:{unused_tcp_port}", silence=30)
    with pytest.raises(TransientError) as failed:
        await ask(provider, asking("Who knows?"))
    await provider.close()
    assert (failed.value.reason, failed.value.refused) == ("provider_unavailable", True)
