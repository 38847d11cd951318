"""The audit counts what was sent, whatever the client saw of it."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from simulator.audit import Audit, Record

Audited = Callable[[int], Awaitable[dict[str, Any]]]


async def test_a_completed_call_is_found_by_both_ids(claude: AsyncAnthropic, control: httpx2.AsyncClient) -> None:
    raw = await claude.messages.with_raw_response.create(
        model="claude-any",
        max_tokens=9,
        messages=[{"role": "user", "content": "[[sim tokens=3 cached=50 reasoning=1]]"}],
        extra_headers={"X-Client-Request-Id": "mine"},
    )
    request_id = raw.headers["request-id"]
    by_own = (await control.get("/control/audit", params={"request_id": request_id})).json()["calls"]
    by_client = (await control.get("/control/audit", params={"client_request_id": "mine"})).json()["calls"]

    assert by_own == by_client
    [call] = by_own
    assert 0 < call.pop("started_at") <= call.pop("last_token_at") <= call.pop("finished_at")
    assert call == {
        "request_id": request_id,
        "client_request_id": "mine",
        "provider": "anthropic",
        "api": "messages",
        "model": "claude-any",
        "streaming": False,
        "status": 200,
        "outcome": "completed",
        "input_tokens": 0,
        "output_tokens": 4,
        "cache_read_tokens": 50,
        "cache_write_tokens": 0,
        "reasoning_tokens": 1,
    }


async def test_a_client_that_leaves_is_noticed_and_what_it_was_sent_counted(
    claude: AsyncAnthropic, audited: Audited
) -> None:
    stream = await claude.messages.create(
        model="m", max_tokens=5000, stream=True, messages=[{"role": "user", "content": "[[sim tokens=5000 tps=100]]"}]
    )
    seen = 0
    async for event in stream:
        seen += event.type == "content_block_delta"
        if seen == 3:
            break
    await stream.close()

    [call] = (await audited(1))["calls"]
    assert (call["outcome"], call["status"]) == ("client_gone", 200)
    assert 3 <= call["output_tokens"] < 5000
    assert call["started_at"] < call["last_token_at"] <= call["finished_at"]


async def test_a_client_that_leaves_before_a_whole_answer_was_sent_nothing(gpt: AsyncOpenAI, audited: Audited) -> None:
    with pytest.raises(Exception, match="timed out"):
        await gpt.responses.create(model="m", input="[[sim tokens=5 ttft=60]]", timeout=0.2)

    [call] = (await audited(1))["calls"]
    assert call["outcome"] == "client_gone"
    assert (call["input_tokens"], call["output_tokens"], call["last_token_at"]) == (0, 0, 0)


async def test_a_stalled_stream_is_given_up_with_its_client(claude: AsyncAnthropic, audited: Audited) -> None:
    stream = await claude.messages.create(
        model="m",
        max_tokens=99,
        stream=True,
        messages=[{"role": "user", "content": "[[sim tokens=9 fault=stall fault_after=4]]"}],
    )
    seen = 0
    async for event in stream:
        seen += event.type == "content_block_delta"
        if seen == 4:
            break
    await stream.close()

    [call] = (await audited(1))["calls"]
    assert (call["outcome"], call["output_tokens"]) == ("client_gone", 4)


async def test_a_cut_stream_counts_the_tokens_before_the_cut(claude: AsyncAnthropic, audited: Audited) -> None:
    stream = await claude.messages.create(
        model="m",
        max_tokens=99,
        stream=True,
        messages=[{"role": "user", "content": "[[sim tokens=9 fault=cut fault_after=4]]"}],
    )
    with pytest.raises(httpx2.RemoteProtocolError):
        async for _ in stream:
            pass

    [call] = (await audited(1))["calls"]
    assert (call["outcome"], call["output_tokens"], call["input_tokens"]) == ("cut", 4, 10)


async def test_a_refused_call_costs_nothing(claude: AsyncAnthropic, audited: Audited) -> None:
    with pytest.raises(anthropic.OverloadedError):
        await claude.messages.create(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "[[sim fault=529]]"}]
        )

    totals = (await audited(1))["totals"]
    assert (totals["failed"], totals["input_tokens"], totals["output_tokens"]) == (1, 0, 0)


async def test_totals_are_the_sum_of_what_200_concurrent_streams_received(
    claude: AsyncAnthropic, gpt: AsyncOpenAI, audited: Audited
) -> None:
    received: Counter[str] = Counter()

    async def ask_claude(number: int) -> None:
        prompt = f"[[sim tokens={5 + number % 7} tps=200 cached={number % 3}]]"
        async with claude.messages.stream(
            model="claude", max_tokens=99, messages=[{"role": "user", "content": prompt}]
        ) as stream:
            usage = (await stream.get_final_message()).usage
        received["input_tokens"] += usage.input_tokens
        received["cache_read_tokens"] += usage.cache_read_input_tokens or 0
        received["output_tokens"] += usage.output_tokens

    async def ask_gpt(number: int) -> None:
        prompt = f"[[sim tokens={5 + number % 7} tps=200 reasoning={number % 3} cached=2]]"
        async with gpt.responses.stream(model="gpt", input=prompt) as stream:
            usage = (await stream.get_final_response()).usage
        assert usage is not None
        received["input_tokens"] += usage.input_tokens - usage.input_tokens_details.cached_tokens
        received["cache_read_tokens"] += usage.input_tokens_details.cached_tokens
        received["output_tokens"] += usage.output_tokens
        received["reasoning_tokens"] += usage.output_tokens_details.reasoning_tokens

    await asyncio.gather(*map(ask_claude, range(100)), *map(ask_gpt, range(100)))

    totals = (await audited(200))["totals"]
    assert {key: totals[key] for key in received} == received
    assert totals["completed"] == 200
    assert set(totals["by_model"]) == {"claude", "gpt"}
    assert sum(model["output_tokens"] for model in totals["by_model"].values()) == totals["output_tokens"]


async def test_totals_alone_are_cheap_and_the_audit_can_be_emptied(
    claude: AsyncAnthropic, control: httpx2.AsyncClient
) -> None:
    await claude.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}])
    body = (await control.get("/control/audit", params={"totals": "1"})).json()
    assert set(body) == {"totals"}
    assert body["totals"]["calls"] == 1
    assert (await control.get("/control/audit", params={"limit": "0"})).json()["calls"] == []

    emptied = (await control.delete("/control/audit")).json()["totals"]
    assert (emptied["calls"], emptied["by_model"]) == (0, {})


def test_old_records_are_dropped_but_stay_in_the_totals() -> None:
    audit = Audit(kept=2)
    for number in range(5):
        audit.finish(Record(f"r{number}", "same" if number else "first", "p", "a", model="m", output_tokens=1))

    assert [record.request_id for record in audit.calls()] == ["r3", "r4"]
    assert [record.request_id for record in audit.calls(client_request_id="same")] == ["r3", "r4"]
    assert list(audit.calls(client_request_id="first")) == []
    assert list(audit.calls(request_id="r1")) == []
    assert audit.totals()["output_tokens"] == 5
