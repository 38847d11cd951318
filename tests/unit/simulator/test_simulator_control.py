"""Rules and defaults set through the control endpoints."""

import anthropic
import httpx2
import pytest
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI


async def ask(claude: AsyncAnthropic, prompt: str, model: str = "m") -> str:
    message = await claude.messages.create(model=model, max_tokens=99, messages=[{"role": "user", "content": prompt}])
    return "".join(block.text for block in message.content if block.type == "text")


async def add(control: httpx2.AsyncClient, rule: dict[str, object]) -> None:
    response = await control.post("/control/rules", json=rule)
    assert response.status_code == 201, response.text


async def test_the_first_rule_that_matches_wins(claude: AsyncAnthropic, control: httpx2.AsyncClient) -> None:
    await add(control, {"match": {"model": "special"}, "reply": {"text": "by model"}})
    await add(control, {"match": {"contains": "weather"}, "reply": {"text": "by text"}})

    assert await ask(claude, "the weather", "special") == "by model"
    assert await ask(claude, "the weather") == "by text"
    assert await ask(claude, "else") == "This is a simulated answer to: else"


async def test_a_rule_is_used_up_after_its_times(claude: AsyncAnthropic, control: httpx2.AsyncClient) -> None:
    await add(control, {"reply": {"fault": 500}, "times": 1})
    with pytest.raises(anthropic.InternalServerError):
        await ask(claude, "x")
    assert await ask(claude, "x") == "This is a simulated answer to: x"
    assert (await control.get("/control/rules")).json() == {
        "rules": [{"reply": {"fault": "500"}, "times": 1, "used": 1}]
    }
    assert (await control.delete("/control/rules")).json() == {"rules": []}


async def test_a_prompt_wins_over_a_rule_key_by_key(claude: AsyncAnthropic, control: httpx2.AsyncClient) -> None:
    await add(control, {"reply": {"text": "from the rule", "cached": 40, "fault": "429"}})
    message = await claude.messages.create(
        model="m", max_tokens=9, messages=[{"role": "user", "content": "[[sim tokens=2 fault=none]]"}]
    )
    assert message.usage.cache_read_input_tokens == 40
    assert message.usage.output_tokens == 2


async def test_a_rule_can_call_tools(claude: AsyncAnthropic, control: httpx2.AsyncClient) -> None:
    calls = ['clock:{"zone":"UTC"}', {"name": "calculator", "arguments": {"expression": "1"}}]
    await add(control, {"reply": {"tool": calls}})
    message = await claude.messages.create(
        model="m",
        max_tokens=99,
        tools=[{"name": "clock", "input_schema": {"type": "object"}}],
        messages=[{"role": "user", "content": "what time is it?"}],
    )
    assert [block.input for block in message.content if block.type == "tool_use"] == [
        {"zone": "UTC"},
        {"expression": "1"},
    ]


async def test_defaults_hold_for_calls_that_say_nothing(claude: AsyncAnthropic, control: httpx2.AsyncClient) -> None:
    response = await control.put("/control/defaults", json={"tokens": 2, "requests_limit": 7})
    assert response.json()["tokens"] == 2
    raw = await claude.messages.with_raw_response.create(
        model="m", max_tokens=99, messages=[{"role": "user", "content": "x"}]
    )
    assert raw.headers["anthropic-ratelimit-requests-limit"] == "7"
    assert (await raw.parse()).usage.output_tokens == 2
    assert await ask(claude, "[[sim text=other]]") == "other"


async def test_a_limit_of_requests_per_minute_is_enforced_for_each_model(
    claude: AsyncAnthropic, control: httpx2.AsyncClient
) -> None:
    await control.put("/control/defaults", json={"rpm": 2})
    await ask(claude, "x")
    await ask(claude, "x")
    with pytest.raises(anthropic.RateLimitError) as caught:
        await ask(claude, "x")
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 30
    assert await ask(claude, "x", "another")


async def test_a_limit_of_tokens_per_minute_counts_prompts_and_answers(
    claude: AsyncAnthropic, gpt: AsyncOpenAI, control: httpx2.AsyncClient
) -> None:
    await control.put("/control/defaults", json={"tpm": 100, "tokens": 120})
    raw = await gpt.chat.completions.with_raw_response.create(model="m", messages=[{"role": "user", "content": "x"}])
    assert raw.headers["x-ratelimit-limit-tokens"] == "100"
    assert raw.headers["x-ratelimit-remaining-tokens"] == "99"
    assert "x-ratelimit-limit-requests" not in raw.headers
    with pytest.raises(anthropic.RateLimitError, match="100 tokens") as caught:
        await ask(claude, "x")
    assert 10 <= int(caught.value.response.headers["retry-after"]) <= 14  # 21 beyond the hundred, and one to come
    assert caught.value.response.headers["anthropic-ratelimit-tokens-remaining"] == "0"


async def test_what_is_not_limited_is_not_said_to_be(claude: AsyncAnthropic) -> None:
    raw = await claude.messages.with_raw_response.create(
        model="m", max_tokens=99, messages=[{"role": "user", "content": "x"}]
    )
    assert not [name for name in raw.headers if "ratelimit" in name]


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("POST", "/control/rules", {"reply": {"tokns": 1}}, "reply.tokns"),
        ("POST", "/control/rules", {"reply": {"tokens": -1}}, "reply.tokens"),
        ("POST", "/control/rules", {"reply": {"tokens": 1, "text": "x"}}, "text or tokens"),
        ("POST", "/control/rules", {"reply": {"tool": "x:{"}}, "are not JSON"),
        ("POST", "/control/rules", {"reply": {"fault": "teapot"}}, "reply.fault"),
        ("POST", "/control/rules", {"reply": {}}, "sets no key"),
        ("POST", "/control/rules", {"match": {"modle": "x"}, "reply": {"tokens": 1}}, "match.modle"),
        ("POST", "/control/rules", [], "dictionary"),
        ("PUT", "/control/defaults", {"rpm": 0}, "rpm"),
        ("PUT", "/control/defaults", {"speed": 1}, "speed"),
    ],
)
async def test_invalid_input_is_refused_with_the_reason(
    control: httpx2.AsyncClient, method: str, path: str, body: object, expected: str
) -> None:
    response = await control.request(method, path, json=body)
    assert response.status_code == 422
    assert expected in response.json()["error"]["message"]


async def test_unknown_paths_and_broken_json(control: httpx2.AsyncClient) -> None:
    assert (await control.get("/v1/unknown")).status_code == 404
    assert (await control.post("/control/rules", content=b"{")).status_code == 422
    assert (await control.get("/control/audit", params={"limit": "x"})).status_code == 422
