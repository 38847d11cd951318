"""The main job, end to end on the real stack: from the request to the ledger's row."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from uuid import UUID, uuid4

import aio_pika
import asyncpg
import pytest

from common.contracts import TaskSubmitted
from common.contracts.base import now
from common.contracts.tasks import InputMessage
from common.messaging.publisher import publisher
from common.messaging.topology import EVENTS, TASKS
from tests.acceptance.reading import Reading, events_of, follow
from tests.acceptance.stack import TIERS, Stack
from tests.acceptance.tasks import ended, ledger_sum, settled, submit, usage_rows
from tests.stage import eventually

pytestmark = [pytest.mark.timeout(180)]


@pytest.mark.parametrize("tier", TIERS)
async def test_a_task_of_each_tier_completes_and_everything_of_it_is_recorded(stack: Stack, tier: str) -> None:
    async with stack.client(tier) as client:
        task = await submit(client, f'What is AI? [[sim text="A field of computing, {tier}."]]', user_id="ada")
        assert (task["status"], task["tier"], task["lane"]) == ("queued", tier, f"tasks.{tier}")
        reading = await follow(client, task["id"], Reading())
        finished = await settled(client, task["id"])

    assert finished["status"] == "completed"
    assert finished["output"] == reading.text == f"A field of computing, {tier}."
    assert Decimal(finished["cost_usd"]) > 0
    task_id = UUID(task["id"])

    async def recorded() -> list[asyncpg.Record]:
        """Its end is told as soon as it is decided, and billed for itself: the record may be a moment behind."""
        return await stack.rows("SELECT * FROM history.tasks WHERE task_id = $1 AND status <> 'queued'", task_id)

    [row] = await eventually(recorded)
    assert (row["status"], row["tier"], row["user_id"]) == ("completed", tier, "ada")
    roles = await stack.rows("SELECT role FROM history.messages WHERE task_id = $1 ORDER BY seq", task_id)
    assert [message["role"] for message in roles] == ["user", "assistant"]
    stored = await stack.rows("SELECT fence, seq, type FROM history.events WHERE task_id = $1 ORDER BY 1, 2", task_id)
    assert [(e["fence"], e["seq"], e["type"]) for e in stored] == [(*e.id, e.type) for e in reading.events]
    assert await ledger_sum(stack, task["id"], "receivable") == Decimal(finished["cost_usd"])
    assert await ledger_sum(stack, task["id"], "") == 0


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "gpt-5.4-mini", "gpt-5.4"])
async def test_a_run_uses_its_tools_with_every_api(stack: Stack, model: str) -> None:
    script = '[[sim tool=calculator:{"expression":"6*7"} tool=current_time:{} cached=30 text="It is 42."]]'
    async with stack.client() as client:
        task = await submit(client, f"What is 6 times 7? {script}", model=model)
        reading = await follow(client, task["id"], Reading())
        finished = await settled(client, task["id"])

    assert finished["output"] == reading.text == "It is 42."
    results = {event.data["name"]: event.data for event in reading.events if event.type == "tool_end"}
    assert results["calculator"]["content"] == "42"
    assert not results["current_time"]["is_error"]
    rows = await usage_rows(stack, task["id"])
    assert [row["step"] for row in rows] == [1, 2]
    served = {call["request_id"]: call for call in await stack.audited_calls()}
    for row in rows:
        assert row["cache_read_tokens"] == 30
        for kind in ("input_tokens", "cache_read_tokens", "output_tokens"):
            assert row[kind] == served[row["provider_request_id"]][kind], kind
    assert await ledger_sum(stack, task["id"], "receivable") == Decimal(finished["cost_usd"])


async def test_the_ledger_counts_what_the_provider_counts(stack: Stack) -> None:
    async with stack.client() as client:
        tasks = [
            await submit(client, f"Question {n} [[sim tokens={n + 1} cached={n * 3}]]", model=model)
            for n in range(6)
            for model in ("claude-haiku-4-5", "gpt-5.4-mini", "gpt-5.4")
        ]
        for task in tasks:
            await settled(client, task["id"])
    identifiers = [UUID(task["id"]) for task in tasks]
    counted = await stack.rows(
        "SELECT provider_request_id, input_tokens, cache_read_tokens, output_tokens, estimated FROM billing.usage"
        " WHERE task_id = ANY($1)",
        identifiers,
    )
    assert len(counted) == len(tasks)
    served = {call["request_id"]: call for call in await stack.audited_calls()}
    for row in counted:
        call = served[row["provider_request_id"]]
        for kind in ("input_tokens", "cache_read_tokens", "output_tokens"):
            assert row[kind] == call[kind], (kind, dict(row), call)
        assert not row["estimated"]


async def test_the_same_request_twice_is_one_task_and_one_charge(stack: Stack) -> None:
    key = f"order-{uuid4()}"
    async with stack.client("pro") as client:
        first, second = await asyncio.gather(
            submit(client, "Once [[sim tokens=5]]", key=key), submit(client, "Once [[sim tokens=5]]", key=key)
        )
        assert first["id"] == second["id"]
        await settled(client, first["id"])
        again = await client.post(
            "/v1/tasks", json={"input": "Once [[sim tokens=5]]"}, headers={"Idempotency-Key": key}
        )
        other = await client.post("/v1/tasks", json={"input": "Something else"}, headers={"Idempotency-Key": key})
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    assert other.status_code == 409
    assert len(await usage_rows(stack, first["id"])) == 1


async def test_the_same_message_twice_is_one_run_and_one_charge(stack: Stack) -> None:
    task = TaskSubmitted(
        task_id=uuid4(),
        tenant_id=stack.tenants["free"],
        tier="free",
        level=15,
        priority=5,
        agent="default",
        input=(InputMessage(role="user", content="Twice [[sim tokens=4 tps=20]]"),),
        request_hash="",
        submitted_at=now(),
    )
    async with publisher(stack.stage.rabbit("gateway"), "gateway") as publish, stack.client("free") as client:
        for _ in range(2):
            await publish.publish(TASKS, "free", task, subject=task.task_id, stable_id=str(task.task_id))
        finished = await settled(client, str(task.task_id))
        await eventually(lambda: stack.lane_is_empty("tasks.free"))
    assert (finished["status"], finished["attempts"]) == ("completed", 1)
    assert len(await usage_rows(stack, str(task.task_id))) == 1


@pytest.mark.parametrize(("exchange", "key"), [(TASKS, "pro"), (EVENTS, "usage.recorded"), (EVENTS, "run.finished")])
async def test_a_poison_message_is_filed_with_its_reason_and_work_goes_on(
    stack: Stack, exchange: str, key: str
) -> None:
    body = f'{{"neither": "{uuid4()}"}}'.encode()
    connection = await aio_pika.connect(stack.admin_amqp)
    async with connection:
        channel = await connection.channel()
        kind = {"pro": "task.submitted"}.get(key, key)
        await (await channel.get_exchange(exchange, ensure=False)).publish(aio_pika.Message(body, type=kind), key)

    async def filed() -> list[asyncpg.Record]:
        return await stack.rows("SELECT reason, routing_key FROM history.dead_letters WHERE body = $1", body)

    letters = await eventually(filed)
    assert all("Field required" in letter["reason"] for letter in letters)
    async with stack.client("pro") as client:
        task = await submit(client, "Still there? [[sim tokens=2]]")
        assert (await settled(client, task["id"]))["status"] == "completed"


async def test_chat_streams_in_the_request_itself(stack: Stack) -> None:
    async with (
        stack.client() as client,
        client.stream("POST", "/v1/chat/stream", json={"input": 'Hi [[sim text="Hello there."]]'}) as response,
    ):
        assert response.status_code == 200, await response.aread()
        events, reading = events_of(response), Reading()
        receipt = await anext(events)
        async for event in events:
            reading.add(event)
    assert (receipt.type, receipt.data["status"]) == ("status", "queued")
    assert reading.done
    assert reading.text == "Hello there."


async def test_when_a_chats_client_goes_away_no_more_tokens_are_bought(stack: Stack) -> None:
    async with stack.client() as client:
        async with client.stream(
            "POST", "/v1/chat/stream", json={"input": "Go on for long [[sim tokens=2000 tps=20]]"}
        ) as response:
            events = events_of(response)
            task_id = (await anext(events)).data["id"]
            async for event in events:
                if event.type == "token":
                    break
        finished = await settled(client, task_id)
    assert finished["status"] == "cancelled"
    rows = await usage_rows(stack, task_id)
    assert [row["estimated"] for row in rows] == [True]
    assert 0 < rows[0]["output_tokens"] < 200


async def test_a_running_task_is_cancelled_and_its_stream_ends(stack: Stack) -> None:
    async with stack.client() as client:
        task = await submit(client, "A long answer [[sim tokens=2000 tps=20]]")
        reading = Reading()
        following = asyncio.create_task(follow(client, task["id"], reading))

        async def some_tokens() -> bool:
            return any(event.type == "token" for event in reading.events)

        await eventually(some_tokens)
        answer = await client.post(f"/v1/tasks/{task['id']}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (200, "cancelling")
        await following
        finished = await settled(client, task["id"])
        again = await client.post(f"/v1/tasks/{task['id']}/cancel")
    assert reading.events[-1].data["status"] == finished["status"] == again.json()["status"] == "cancelled"
    assert Decimal(finished["cost_usd"]) > 0


async def test_a_failing_provider_is_tried_again_and_the_stream_says_so(stack: Stack) -> None:
    async with stack.client() as client:
        task = await submit(client, f"Cut me {uuid4()} [[sim tokens=12 tps=200 fault=cut fault_after=4 fault_times=1]]")
        reading = await follow(client, task["id"], Reading())
        finished = await settled(client, task["id"])
    assert finished["status"] == "completed"
    assert reading.text == finished["output"]
    assert [event.data["reason"] for event in reading.events if event.type == "reset"]
    assert len(await usage_rows(stack, task["id"])) == 2


async def test_a_task_that_fails_says_why(stack: Stack) -> None:
    async with stack.client() as client:
        task = await submit(client, "Refuse [[sim fault=400]]")
        finished = await ended(client, task["id"])
    assert finished["status"] == "failed"
    assert finished["error"]["type"] == "provider_refused_request"


async def test_a_cap_that_the_next_call_could_exceed_stops_the_run(stack: Stack) -> None:
    async with stack.client() as client:
        task = await submit(client, "Cheap [[sim tokens=2]]", max_cost_usd="0.000001")
        finished = await settled(client, task["id"])
    assert finished["error"]["type"] == "budget_exceeded"
    assert Decimal(finished["cost_usd"]) == 0


async def test_the_sums_of_the_books_are_those_of_the_provider(stack: Stack) -> None:
    """Runs last in this file, over all of its calls: completed, refused, cancelled and cut.

    Each call that the provider was asked for is in the books once, and none that it was not. Input is the same to the
    token for every class, of calls that were cancelled or cut too, since they were cut after the provider had told it.
    So is the output of every call that came to its end; where one did not, only the provider knows how much more it had
    sent than arrived, and the books have an estimate that says so.
    """

    async def over() -> bool:
        unresolved = await stack.rows("SELECT 1 FROM billing.holds WHERE state IN ('open', 'in_doubt')")
        return not unresolved and (await stack.audit())["in_flight"] == 0

    await eventually(over)
    totals, served = await stack.audit(), await stack.audited_calls()
    booked = {str(row["attempt_id"]): row for row in await stack.rows("SELECT * FROM billing.usage")}
    assert sorted(call["client_request_id"] for call in served) == sorted(booked)
    assert len(booked) == totals["calls"]
    assert {"completed", "failed", "cut", "client_gone"} <= {call["outcome"] for call in served}

    rows = booked.values()
    assert sum(row["input_tokens"] for row in rows) == totals["input_tokens"] > 0
    assert sum(row["cache_read_tokens"] for row in rows) == totals["cache_read_tokens"] > 0
    written = sum(row["cache_write_5m_tokens"] + row["cache_write_1h_tokens"] for row in rows)
    assert written == totals["cache_write_tokens"]

    broken_off = [call for call in served if booked[call["client_request_id"]]["estimated"]]
    assert {call["outcome"] for call in broken_off} == {"cut", "client_gone"}
    for kind in ("output_tokens", "reasoning_tokens"):
        counted = sum(row[kind] for row in rows if not row["estimated"])
        assert counted == totals[kind] - sum(call[kind] for call in broken_off), kind
    assert all(row["output_tokens"] > 0 for row in rows if row["estimated"])

    charged = await stack.rows("SELECT sum(amount) AS total FROM billing.ledger WHERE account = 'receivable'")
    assert charged[0]["total"] == sum(row["charge"] for row in rows)
