"""Plain answers, whole and streamed, through the real SDKs."""

import time
from pathlib import Path

import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from common.catalogue import load_catalogue

CATALOGUE = Path(__file__).parents[3] / "deploy" / "catalogue"


async def test_anthropic_says_the_answer_is_simulated_and_counts_it(
    claude: AsyncAnthropic, control: httpx2.AsyncClient
) -> None:
    await control.put("/control/defaults", json={"requests_limit": 4_000, "tokens_limit": 4_000_000})
    raw = await claude.messages.with_raw_response.create(
        model="claude-any", max_tokens=100, system="be kind", messages=[{"role": "user", "content": "hello"}]
    )
    message = await raw.parse()

    assert raw.headers["x-laneway-simulated"] == "true"
    assert raw.headers["request-id"].startswith("req_")
    assert raw.headers["anthropic-ratelimit-requests-limit"] == "4000"
    assert int(raw.headers["anthropic-ratelimit-tokens-remaining"]) == 4_000_000 - 4
    assert raw.headers["anthropic-ratelimit-requests-reset"].endswith("Z")
    assert [block.text for block in message.content if block.type == "text"] == ["This is a simulated answer to: hello"]
    assert message.model == "claude-any"
    assert message.stop_reason == "end_turn"
    assert (message.usage.input_tokens, message.usage.output_tokens) == (2 + 2, 9)


async def test_anthropic_streams_one_chunk_for_each_token(claude: AsyncAnthropic) -> None:
    async with claude.messages.stream(
        model="claude-any", max_tokens=100, messages=[{"role": "user", "content": "count [[sim tokens=7]]"}]
    ) as stream:
        chunks = [chunk async for chunk in stream.text_stream]
        message = await stream.get_final_message()

    assert len(chunks) == message.usage.output_tokens == 7
    assert message.stop_reason == "end_turn"


async def test_chat_answers_with_openai_headers(gpt: AsyncOpenAI, control: httpx2.AsyncClient) -> None:
    await control.put("/control/defaults", json={"requests_limit": 4_000, "tokens_limit": 4_000_000})
    raw = await gpt.chat.completions.with_raw_response.create(
        model="gpt-any", messages=[{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    )
    completion = raw.parse()

    assert raw.headers["x-laneway-simulated"] == "true"
    assert raw.headers["x-request-id"].startswith("req_")
    assert raw.headers["x-ratelimit-limit-requests"] == "4000"
    assert raw.headers["x-ratelimit-reset-tokens"] == "0s"
    assert completion.choices[0].message.content == "This is a simulated answer to: hello"
    assert completion.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("asked", [True, False])
async def test_chat_streams_usage_only_when_asked(gpt: AsyncOpenAI, asked: bool) -> None:
    stream = await gpt.chat.completions.create(
        model="gpt-any",
        stream=True,
        stream_options={"include_usage": asked},
        messages=[{"role": "user", "content": "[[sim tokens=5]]"}],
    )
    chunks = [chunk async for chunk in stream]

    assert sum(bool(chunk.choices and chunk.choices[0].delta.content) for chunk in chunks) == 5
    with_usage = [chunk for chunk in chunks if chunk.usage]
    if not asked:
        assert with_usage == []
        return
    assert with_usage == chunks[-1:]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5


async def test_responses_answer_whole(gpt: AsyncOpenAI) -> None:
    response = await gpt.responses.create(model="gpt-any", instructions="be kind", input="hello")

    assert response.output_text == "This is a simulated answer to: hello"
    assert response.status == "completed"
    assert response.usage is not None
    assert response.usage.output_tokens == 9


async def test_responses_stream_numbered_events(gpt: AsyncOpenAI) -> None:
    async with gpt.responses.stream(model="gpt-any", input=[{"role": "user", "content": "[[sim tokens=6]]"}]) as stream:
        events = [event async for event in stream]
        response = await stream.get_final_response()

    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert events[0].type == "response.created"
    assert events[-1].type == "response.completed"
    assert sum(event.type == "response.output_text.delta" for event in events) == 6
    assert response.usage is not None
    assert response.usage.output_tokens == 6


async def test_ids_are_unique(claude: AsyncAnthropic) -> None:
    messages = [
        await claude.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "same"}])
        for _ in range(3)
    ]
    assert len({message.id for message in messages}) == 3


async def test_the_catalogues_models_are_listed_in_each_providers_shape(
    claude: AsyncAnthropic, gpt: AsyncOpenAI
) -> None:
    models = load_catalogue(CATALOGUE).models
    assert [model.id async for model in claude.models.list()] == [m.name for m in models if m.provider == "anthropic"]
    assert [model.id async for model in gpt.models.list()] == [m.name for m in models if m.provider == "openai"]


async def test_count_tokens_agrees_with_the_usage_of_the_same_request(claude: AsyncAnthropic) -> None:
    counted = await claude.messages.count_tokens(
        model="m", system="short", messages=[{"role": "user", "content": "how many tokens is this?"}]
    )
    message = await claude.messages.create(
        model="m", max_tokens=9, system="short", messages=[{"role": "user", "content": "how many tokens is this?"}]
    )
    assert counted.input_tokens == message.usage.input_tokens == 2 + 6


async def test_a_paced_answer_takes_its_time(claude: AsyncAnthropic) -> None:
    started = time.monotonic()
    stream = await claude.messages.create(
        model="m", max_tokens=9, stream=True, messages=[{"role": "user", "content": "[[sim tokens=3 ttft=0.1 tps=20]]"}]
    )
    arrivals = [time.monotonic() - started async for event in stream if event.type == "content_block_delta"]

    # Timers count in whole milliseconds, so one may be early by less than that.
    assert [due <= arrival + 0.002 for due, arrival in zip([0.1, 0.15, 0.2], arrivals, strict=True)] == [True] * 3


async def test_health(control: httpx2.AsyncClient) -> None:
    response = await control.get("/health")
    assert response.json() == {"status": "ok", "simulated": True}
    assert response.headers["x-laneway-simulated"] == "true"
