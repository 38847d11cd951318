"""Usage: each provider's convention for cached and reasoning tokens, and the client's limit of output tokens."""

from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

# 49 characters, so 13 tokens of input.
PROMPT = "[[sim cached=5 cache_write=3 reasoning=4 text=x]]"


async def test_anthropic_input_tokens_exclude_the_cache(claude: AsyncAnthropic) -> None:
    whole = await claude.messages.create(model="m", max_tokens=99, messages=[{"role": "user", "content": PROMPT}])
    async with claude.messages.stream(
        model="m", max_tokens=99, messages=[{"role": "user", "content": PROMPT}]
    ) as stream:
        streamed = await stream.get_final_message()

    for usage in (whole.usage, streamed.usage):
        assert usage.input_tokens == 13 - 5 - 3
        assert usage.cache_read_input_tokens == 5
        assert usage.cache_creation_input_tokens == 3
        assert usage.output_tokens == 4 + 1
        assert usage.output_tokens_details is not None
        assert usage.output_tokens_details.thinking_tokens == 4


async def test_openai_cached_tokens_are_part_of_the_prompt(gpt: AsyncOpenAI) -> None:
    chat = (await gpt.chat.completions.create(model="m", messages=[{"role": "user", "content": PROMPT}])).usage
    response = (await gpt.responses.create(model="m", input=PROMPT)).usage

    assert chat is not None
    assert chat.prompt_tokens_details is not None
    assert chat.completion_tokens_details is not None
    assert (chat.prompt_tokens, chat.prompt_tokens_details.cached_tokens) == (13, 5)
    assert (chat.completion_tokens, chat.completion_tokens_details.reasoning_tokens) == (5, 4)
    assert chat.total_tokens == 18
    assert response is not None
    assert (response.input_tokens, response.input_tokens_details.cached_tokens) == (13, 5)
    assert (response.output_tokens, response.output_tokens_details.reasoning_tokens) == (5, 4)


async def test_a_cache_hit_larger_than_the_prompt_makes_the_prompt_that_large(
    claude: AsyncAnthropic, gpt: AsyncOpenAI
) -> None:
    message = await claude.messages.create(
        model="m", max_tokens=9, messages=[{"role": "user", "content": "[[sim cached=1000]]"}]
    )
    chat = await gpt.chat.completions.create(model="m", messages=[{"role": "user", "content": "[[sim cached=1000]]"}])

    assert (message.usage.input_tokens, message.usage.cache_read_input_tokens) == (0, 1000)
    assert chat.usage is not None
    assert chat.usage.prompt_tokens == 1000


async def test_thinking_is_shown_to_a_client_that_enabled_it(claude: AsyncAnthropic) -> None:
    async with claude.messages.stream(
        model="m",
        max_tokens=2000,
        thinking={"type": "enabled", "budget_tokens": 1024},
        messages=[{"role": "user", "content": "[[sim reasoning=3 tokens=2]]"}],
    ) as stream:
        message = await stream.get_final_message()

    assert [block.type for block in message.content] == ["thinking", "text"]
    assert message.usage.output_tokens == 5


async def test_anthropic_stops_at_max_tokens(claude: AsyncAnthropic) -> None:
    async with claude.messages.stream(
        model="m", max_tokens=3, messages=[{"role": "user", "content": "[[sim tokens=9]]"}]
    ) as stream:
        chunks = [chunk async for chunk in stream.text_stream]
        message = await stream.get_final_message()

    assert len(chunks) == message.usage.output_tokens == 3
    assert message.stop_reason == "max_tokens"


async def test_an_answer_of_exactly_max_tokens_is_whole(claude: AsyncAnthropic) -> None:
    message = await claude.messages.create(
        model="m", max_tokens=9, messages=[{"role": "user", "content": "[[sim tokens=9]]"}]
    )
    assert message.stop_reason == "end_turn"


async def test_openai_stops_at_its_limits(gpt: AsyncOpenAI) -> None:
    older = await gpt.chat.completions.create(
        model="m", max_tokens=3, messages=[{"role": "user", "content": "[[sim tokens=9]]"}]
    )
    newer = await gpt.chat.completions.create(
        model="m", max_completion_tokens=3, messages=[{"role": "user", "content": "[[sim tokens=9 reasoning=2]]"}]
    )
    response = await gpt.responses.create(model="m", max_output_tokens=3, input="[[sim tokens=9]]")

    for completion in (older, newer):
        assert completion.choices[0].finish_reason == "length"
        assert completion.usage is not None
        assert completion.usage.completion_tokens == 3
    assert newer.choices[0].message.content == "the "
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"


async def test_a_responses_stream_at_its_limit_ends_incomplete(gpt: AsyncOpenAI) -> None:
    stream = await gpt.responses.create(model="m", max_output_tokens=3, input="[[sim tokens=9]]", stream=True)
    events = [event async for event in stream]

    assert sum(event.type == "response.output_text.delta" for event in events) == 3
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.usage is not None
    assert events[-1].response.usage.output_tokens == 3
