"""Each fault reaches the SDK's caller as the exception the real provider would cause."""

import json
from collections.abc import Awaitable, Callable

import anthropic
import httpx2
import openai
import pytest

Ask = Callable[[str], Awaitable[int]]
"""Sends a prompt, reads the answer and returns how many pieces of text came."""


@pytest.fixture(params=["whole", "stream"])
def ask_claude(request: pytest.FixtureRequest, claude: anthropic.AsyncAnthropic) -> Ask:
    async def whole(prompt: str) -> int:
        await claude.messages.create(model="m", max_tokens=99, messages=[{"role": "user", "content": prompt}])
        return 1

    async def stream(prompt: str) -> int:
        events = await claude.messages.create(
            model="m", max_tokens=99, stream=True, messages=[{"role": "user", "content": prompt}]
        )
        return len([event async for event in events if event.type == "content_block_delta"])

    return whole if request.param == "whole" else stream


@pytest.fixture(params=["chat whole", "chat stream", "responses whole", "responses stream"])
def ask_gpt(request: pytest.FixtureRequest, gpt: openai.AsyncOpenAI) -> Ask:
    async def chat_whole(prompt: str) -> int:
        await gpt.chat.completions.create(model="m", messages=[{"role": "user", "content": prompt}])
        return 1

    async def chat_stream(prompt: str) -> int:
        stream = await gpt.chat.completions.create(
            model="m", stream=True, messages=[{"role": "user", "content": prompt}]
        )
        return len([chunk async for chunk in stream if chunk.choices[0].delta.content])

    async def responses_whole(prompt: str) -> int:
        await gpt.responses.create(model="m", input=prompt)
        return 1

    async def responses_stream(prompt: str) -> int:
        stream = await gpt.responses.create(model="m", input=prompt, stream=True)
        return len([event async for event in stream if event.type == "response.output_text.delta"])

    ways: dict[str, Ask] = {
        "chat whole": chat_whole,
        "chat stream": chat_stream,
        "responses whole": responses_whole,
        "responses stream": responses_stream,
    }
    return ways[str(request.param)]


@pytest.mark.parametrize(
    ("fault", "error", "kind"),
    [
        ("400", anthropic.BadRequestError, "invalid_request_error"),
        ("401", anthropic.AuthenticationError, "authentication_error"),
        ("429", anthropic.RateLimitError, "rate_limit_error"),
        ("500", anthropic.InternalServerError, "api_error"),
        ("529", anthropic.OverloadedError, "overloaded_error"),
    ],
)
async def test_refusals_of_anthropic(
    ask_claude: Ask, fault: str, error: type[anthropic.APIStatusError], kind: str
) -> None:
    with pytest.raises(error) as caught:
        await ask_claude(f"[[sim fault={fault}]]")
    assert caught.value.type == kind
    assert caught.value.request_id is not None
    assert caught.value.response.headers["x-laneway-simulated"] == "true"


@pytest.mark.parametrize(
    ("fault", "error", "status"),
    [
        ("400", openai.BadRequestError, 400),
        ("401", openai.AuthenticationError, 401),
        ("429", openai.RateLimitError, 429),
        ("500", openai.InternalServerError, 500),
        ("529", openai.InternalServerError, 503),
    ],
)
async def test_refusals_of_openai(ask_gpt: Ask, fault: str, error: type[openai.APIStatusError], status: int) -> None:
    with pytest.raises(error) as caught:
        await ask_gpt(f"[[sim fault={fault}]]")
    assert caught.value.status_code == status
    assert caught.value.request_id is not None


async def test_a_rate_limit_says_when_to_come_back(ask_claude: Ask) -> None:
    with pytest.raises(anthropic.RateLimitError) as caught:
        await ask_claude("[[sim fault=429 retry_after=2.5]]")
    assert caught.value.response.headers["retry-after"] == "2.5"
    assert caught.value.response.headers["anthropic-ratelimit-requests-remaining"] == "0"


async def test_a_used_up_quota_has_its_own_code(ask_gpt: Ask) -> None:
    with pytest.raises(openai.RateLimitError) as caught:
        await ask_gpt("[[sim fault=429 quota=true]]")
    assert caught.value.code == "insufficient_quota"
    assert "retry-after" not in caught.value.response.headers


async def test_a_fault_heals_after_its_times(ask_claude: Ask) -> None:
    prompt = "try again [[sim fault=500 fault_times=2 tokens=1]]"
    for _ in range(2):
        with pytest.raises(anthropic.InternalServerError):
            await ask_claude(prompt)
    assert await ask_claude(prompt) == 1


async def test_a_cut_answer_of_anthropic(ask_claude: Ask) -> None:
    # Its SDK wraps a lost connection before the answer, but not in the middle of a stream.
    with pytest.raises((anthropic.APIConnectionError, httpx2.RemoteProtocolError)):
        await ask_claude("[[sim fault=cut fault_after=3 tokens=9]]")


async def test_a_cut_answer_of_openai(ask_gpt: Ask) -> None:
    with pytest.raises(openai.APIConnectionError):
        await ask_gpt("[[sim fault=cut fault_after=3 tokens=9]]")


async def test_a_malformed_answer_of_anthropic(ask_claude: Ask) -> None:
    with pytest.raises(json.JSONDecodeError):
        await ask_claude("[[sim fault=malformed fault_after=3 tokens=9]]")


async def test_a_malformed_answer_of_openai(ask_gpt: Ask) -> None:
    with pytest.raises(json.JSONDecodeError):
        await ask_gpt("[[sim fault=malformed tokens=9]]")


async def test_an_error_in_an_answer_of_anthropic(ask_claude: Ask) -> None:
    with pytest.raises(anthropic.APIStatusError) as caught:
        await ask_claude("[[sim fault=error_event fault_after=3 tokens=9]]")
    assert caught.value.type in {"overloaded_error", "api_error"}


async def test_an_error_in_a_chat_stream(gpt: openai.AsyncOpenAI) -> None:
    stream = await gpt.chat.completions.create(
        model="m", stream=True, messages=[{"role": "user", "content": "[[sim fault=error_event fault_after=2]]"}]
    )
    seen: list[str | None] = []

    async def read() -> None:
        async for chunk in stream:
            seen.append(chunk.choices[0].delta.content)

    with pytest.raises(openai.APIError, match="simulated fault"):
        await read()
    assert len(list(filter(None, seen))) == 2


async def test_an_error_in_a_responses_stream_is_an_event(gpt: openai.AsyncOpenAI) -> None:
    stream = await gpt.responses.create(model="m", stream=True, input="[[sim fault=error_event fault_after=2]]")
    events = [event async for event in stream]
    assert events[-1].type == "error"
    assert [event.sequence_number for event in events] == list(range(len(events)))


async def test_a_stalled_answer_runs_into_the_clients_timeout(
    ask_claude: Ask, claude: anthropic.AsyncAnthropic
) -> None:
    claude.timeout = 0.3
    with pytest.raises((anthropic.APITimeoutError, httpx2.ReadTimeout)):
        await ask_claude("[[sim fault=stall fault_after=2 tokens=9]]")


async def test_a_stalled_answer_of_openai(ask_gpt: Ask, gpt: openai.AsyncOpenAI) -> None:
    gpt.timeout = 0.3
    with pytest.raises(openai.APITimeoutError):
        await ask_gpt("[[sim fault=stall fault_after=2 tokens=9]]")


@pytest.mark.parametrize("prompt", ["[[sim tokns=3]]", "[[sim tokens=many]]", "[[sim tokens=3", "[[sim tool=x:{]]"])
async def test_a_malformed_directive_is_refused_with_the_reason(ask_claude: Ask, ask_gpt: Ask, prompt: str) -> None:
    with pytest.raises(anthropic.BadRequestError, match="directive"):
        await ask_claude(prompt)
    with pytest.raises(openai.BadRequestError, match="directive"):
        await ask_gpt(prompt)


async def test_keys_and_models_that_do_not_exist(claude: anthropic.AsyncAnthropic, gpt: openai.AsyncOpenAI) -> None:
    with pytest.raises(anthropic.NotFoundError, match="missing-one"):
        await claude.messages.create(model="missing-one", max_tokens=1, messages=[{"role": "user", "content": "x"}])
    with pytest.raises(openai.NotFoundError) as caught:
        await gpt.responses.create(model="missing-one", input="x")
    assert caught.value.code == "model_not_found"
    with pytest.raises(anthropic.AuthenticationError):
        await claude.with_options(api_key="invalid").messages.create(
            model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}]
        )
    with pytest.raises(openai.AuthenticationError) as refused:
        await gpt.with_options(api_key="invalid").responses.create(model="m", input="x")
    assert refused.value.code == "invalid_api_key"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"model": "m", "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/messages", {"model": "m", "max_tokens": 0, "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/messages", {"model": "m", "max_tokens": 9, "messages": ["x"]}),
        ("/v1/chat/completions", {"model": "m", "messages": []}),
        ("/v1/chat/completions", {"model": 7, "messages": [{"role": "user", "content": "x"}]}),
        ("/v1/responses", {"model": "m", "input": "x", "previous_response_id": "resp_1"}),
        ("/v1/responses", ["not an object"]),
    ],
)
async def test_requests_of_a_wrong_shape(control: httpx2.AsyncClient, path: str, body: object) -> None:
    response = await control.post(path, json=body, headers={"authorization": "Bearer any"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/v1/responses"])
async def test_a_key_is_required(control: httpx2.AsyncClient, path: str) -> None:
    assert (await control.post(path, json={})).status_code == 401
