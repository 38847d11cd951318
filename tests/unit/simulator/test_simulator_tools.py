"""Tool calls: parallel, streamed, in several rounds, and refused when the client offers no tools."""

import json

from anthropic import AsyncAnthropic
from anthropic.types import MessageParam, ToolParam
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam
from openai.types.responses import FunctionToolParam, ResponseInputParam

PROMPT = 'add it up [[sim tool=calculator:{"expression": "2+2", "nested": [[1]]} tool=clock text="it is four"]]'
TWO_STEPS = "[[sim tool=clock steps=2 text=late]]"

CLAUDE_TOOLS: list[ToolParam] = [{"name": "calculator", "input_schema": {"type": "object"}}]
CHAT_TOOLS: list[ChatCompletionFunctionToolParam] = [{"type": "function", "function": {"name": "calculator"}}]
RESPONSES_TOOLS: list[FunctionToolParam] = [
    {"type": "function", "name": "calculator", "parameters": {"type": "object"}, "strict": False}
]
EXPECTED = [("calculator", {"expression": "2+2", "nested": [[1]]}), ("clock", {})]


async def test_anthropic_streams_parallel_calls_and_then_the_text(claude: AsyncAnthropic) -> None:
    history: list[MessageParam] = [{"role": "user", "content": PROMPT}]
    async with claude.messages.stream(model="m", max_tokens=100, tools=CLAUDE_TOOLS, messages=history) as stream:
        deltas = [e async for e in stream if e.type == "content_block_delta" and e.delta.type == "input_json_delta"]
        message = await stream.get_final_message()
    calls = [block for block in message.content if block.type == "tool_use"]

    assert [(call.name, call.input) for call in calls] == EXPECTED
    assert len({call.id for call in calls}) == 2
    assert message.stop_reason == "tool_use"
    # 3 and 2 tokens for the names, and one for each delta.
    assert message.usage.output_tokens == 5 + len(deltas)

    history += [
        {"role": "assistant", "content": message.content},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "4"} for call in calls],
        },
    ]
    final = await claude.messages.create(model="m", max_tokens=100, tools=CLAUDE_TOOLS, messages=history)
    assert final.content[0].type == "text"
    assert final.content[0].text == "it is four"


async def test_anthropic_calls_for_as_many_steps_as_scripted(claude: AsyncAnthropic) -> None:
    history: list[MessageParam] = [{"role": "user", "content": TWO_STEPS}]
    reasons = []
    for _ in range(3):
        message = await claude.messages.create(model="m", max_tokens=50, tools=CLAUDE_TOOLS, messages=history)
        reasons.append(message.stop_reason)
        history.append({"role": "assistant", "content": message.content})
        history.append(
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": block.id, "content": "noon"}
                    for block in message.content
                    if block.type == "tool_use"
                ],
            }
        )
    assert reasons == ["tool_use", "tool_use", "end_turn"]


async def test_chat_streams_parallel_calls_and_then_the_text(gpt: AsyncOpenAI) -> None:
    history: list[ChatCompletionMessageParam] = [{"role": "user", "content": PROMPT}]
    async with gpt.chat.completions.stream(
        model="m", tools=CHAT_TOOLS, messages=history, stream_options={"include_usage": True}
    ) as stream:
        async for _ in stream:
            pass
        completion = await stream.get_final_completion()
    choice = completion.choices[0]
    calls = [call for call in choice.message.tool_calls or [] if call.type == "function"]

    assert [(call.function.name, json.loads(call.function.arguments)) for call in calls] == EXPECTED
    assert choice.finish_reason == "tool_calls"

    whole = await gpt.chat.completions.create(model="m", tools=CHAT_TOOLS, messages=history)
    assert completion.usage is not None
    assert whole.usage is not None
    assert completion.usage.completion_tokens == whole.usage.completion_tokens

    history.append(
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": call.id,
                    "type": "function",
                    "function": {"name": call.function.name, "arguments": call.function.arguments},
                }
                for call in calls
            ],
        }
    )
    history += [{"role": "tool", "tool_call_id": call.id, "content": "4"} for call in calls]
    final = await gpt.chat.completions.create(model="m", tools=CHAT_TOOLS, messages=history)
    assert final.choices[0].message.content == "it is four"


async def test_responses_stream_parallel_calls_and_then_the_text(gpt: AsyncOpenAI) -> None:
    history: ResponseInputParam = [{"role": "user", "content": PROMPT}]
    async with gpt.responses.stream(model="m", tools=RESPONSES_TOOLS, input=history) as stream:
        async for _ in stream:
            pass
        response = await stream.get_final_response()
    calls = [item for item in response.output if item.type == "function_call"]

    assert [(call.name, json.loads(call.arguments)) for call in calls] == EXPECTED

    for call in calls:
        history.append(
            {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments}
        )
    for call in calls:
        history.append({"type": "function_call_output", "call_id": call.call_id, "output": "4"})
    final = await gpt.responses.create(model="m", tools=RESPONSES_TOOLS, input=history)
    assert final.output_text == "it is four"


async def test_a_client_without_tools_gets_the_text(claude: AsyncAnthropic, gpt: AsyncOpenAI) -> None:
    message = await claude.messages.create(model="m", max_tokens=50, messages=[{"role": "user", "content": PROMPT}])
    response = await gpt.responses.create(model="m", input=PROMPT, tools=RESPONSES_TOOLS, tool_choice="none")

    assert message.stop_reason == "end_turn"
    assert response.output_text == "it is four"


async def test_calls_that_do_not_fit_the_limit_are_left_out(claude: AsyncAnthropic) -> None:
    message = await claude.messages.create(
        model="m", max_tokens=4, tools=CLAUDE_TOOLS, messages=[{"role": "user", "content": PROMPT}]
    )
    assert message.content == []
    assert message.stop_reason == "max_tokens"
