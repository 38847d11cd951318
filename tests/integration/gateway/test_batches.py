"""Batches on their way in: whole or not at all, once, and told of each task what became of it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from common.admission import OUTSTANDING_SECONDS, level_of, outstanding_key, rate_key
from common.contracts import TaskSubmitted
from common.contracts.identifiers import batched_task_id
from common.messaging.envelope import unseal
from common.messaging.topology import lane
from common.redis import Client
from tests.integration.gateway.batching import full, questions, read, recorded, recording, submit
from tests.integration.gateway.conftest import Running, Tap, Tenant, forget
from tests.stage import Stage, eventually


@pytest.fixture(autouse=True)
async def persisting(stage: Stage) -> AsyncIterator[None]:
    async with recording(stage):
        yield


async def _messages(tap: Tap, batch: dict[str, Any]) -> list[TaskSubmitted]:
    found = []
    for task in batch["tasks"]:
        if task["status"] == "accepted":
            contract = unseal((await tap.messages(task["id"]))[0])
            assert isinstance(contract, TaskSubmitted)
            found.append(contract)
    return found


async def _outstanding(state: Client, tenant: Tenant) -> int:
    return sum([await state.zcard(outstanding_key(tenant.id, priority)) for priority in range(10)])


async def test_a_thousand_tasks_are_taken_in_one_request(gateway: Running, tap: Tap, state: Client) -> None:
    tenant = await gateway.tenant("pro")
    response = await submit(gateway, tenant, questions(1000))
    assert response.status_code == 202
    batch = response.json()
    assert (batch["size"], batch["complete"], response.headers["Location"]) == (1000, True, batch["links"]["self"])
    assert [task["index"] for task in batch["tasks"]] == list(range(1000))
    assert {task["status"] for task in batch["tasks"]} == {"accepted"}
    assert len({task["id"] for task in batch["tasks"]}) == 1000
    messages = await _messages(tap, batch)
    assert [message.level for message in messages] == [level_of(rank) for rank in range(1000)], "as if one by one"
    assert all(message.batch and message.batch.id == UUID(batch["id"]) for message in messages)
    assert [message.batch and message.batch.index for message in messages] == list(range(1000))
    assert await _outstanding(state, tenant) == 1000
    await recorded(gateway, batch)
    document = await read(gateway, tenant, batch)
    assert (document["counts"]["queued"], document["counts"]["unrecorded"]) == (1000, 0)
    assert document["progress"] == {"ended": 0, "total": 1000, "fraction": 0}
    assert (document["cost_usd"], document["cost_final"]) == ("0", False)


async def test_each_of_its_tasks_can_be_read_at_once_and_by_its_own_address(gateway: Running) -> None:
    tenant = await gateway.tenant()
    batch = (await submit(gateway, tenant, questions(3))).json()
    for task in batch["tasks"]:
        alone = await gateway.client.get(f"/v1/tasks/{task['id']}", headers=tenant.headers)
        assert (alone.status_code, alone.json()["status"]) == (200, "queued")


async def test_defaults_are_for_tasks_that_do_not_say_otherwise(gateway: Running, tap: Tap) -> None:
    tenant = await gateway.tenant()
    body = {
        "defaults": {"priority": 2, "metadata": {"order": "4711"}, "max_cost_usd": "0.0000000001"},
        "tasks": [{"input": "a"}, {"input": "b", "priority": 8}],
    }
    first, second = await _messages(tap, (await submit(gateway, tenant, body)).json())
    assert (first.priority, second.priority) == (2, 8)
    assert (first.metadata, str(first.max_cost_usd)) == ({"order": "4711"}, "1E-10")


async def test_the_levels_are_those_of_each_tasks_own_priority(gateway: Running, tap: Tap) -> None:
    tenant = await gateway.tenant()
    await gateway.submit(tenant, priority=9)
    body = {"tasks": [{"input": "x", "priority": priority} for priority in (5, 9, 0, 5)]}
    messages = await _messages(tap, (await submit(gateway, tenant, body)).json())
    assert [message.level for message in messages] == [level_of(rank) for rank in (1, 1, 3, 3)]


async def test_conditions_are_those_of_each_task(gateway: Running, tap: Tap, state: Client) -> None:
    tenant = await gateway.tenant()
    start = datetime.now(UTC) + timedelta(days=2)
    conditions = {"not_before": start.isoformat(), "concurrency_key": "customer-17", "concurrency_limit": 2}
    body = {"tasks": [{"input": "now"}, {"input": "later", **conditions}], "defaults": {"deadline_seconds": 900_000}}
    now, later = await _messages(tap, (await submit(gateway, tenant, body)).json())
    assert (now.conditional, now.not_before, now.concurrency_key) == (False, None, None)
    assert (later.not_before, later.concurrency_key, later.concurrency_limit) == (start, "customer-17", 2)
    assert later.deadline_at == later.submitted_at + timedelta(seconds=900_000)
    forgotten = {
        task.task_id: await state.zscore(outstanding_key(tenant.id, 5), str(task.task_id)) for task in (now, later)
    }
    until = {task: datetime.fromtimestamp((score or 0) / 1000, UTC) for task, score in forgotten.items()}
    leaves = timedelta(seconds=OUTSTANDING_SECONDS)
    assert abs(until[now.task_id] - now.submitted_at - leaves) < timedelta(seconds=30)
    assert abs(until[later.task_id] - start - leaves) < timedelta(seconds=30), "it counts until its time, and then some"
    assert await state.ttl(outstanding_key(tenant.id, 5)) > timedelta(days=2).total_seconds()


async def test_times_that_are_no_plan_are_refused_and_nothing_is_taken(gateway: Running, state: Client) -> None:
    tenant, long_ago = await gateway.tenant(), (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    body = {"tasks": [{"input": "x"}, {"input": "x", "not_before": long_ago}]}
    response = await submit(gateway, tenant, body, "late")
    assert (response.status_code, [error["index"] for error in response.json()["errors"]]) == (422, [1])
    assert response.json()["errors"][0]["field"] == "tasks.1.not_before"
    assert await _outstanding(state, tenant) == 0
    assert (await submit(gateway, tenant, questions(2), "late")).status_code == 202, "the key is free still"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"tasks": []}, "tasks"),
        (questions(1001), "tasks"),
        ({"tasks": {}}, "tasks"),
        ({}, "tasks"),
        ({"tasks": [{"input": "x"}], "mode": "fast"}, "mode"),
        ({"tasks": [{"input": "x"}], "defaults": []}, None),
        ({"tasks": [{"input": "x"}], "defaults": [1]}, "defaults"),
        ({"tasks": ["x"]}, "tasks.0"),
        ({"tasks": [{"input": "x"}], "defaults": {"priority": 11}}, "defaults.priority"),
    ],
)
async def test_a_body_that_is_no_batch_says_why(gateway: Running, body: dict[str, Any], field: str | None) -> None:
    tenant = await gateway.tenant()
    response = await submit(gateway, tenant, body)
    if field is None:
        assert response.status_code == 202, "an empty list of defaults is none"
        return
    assert response.status_code == 422, response.text
    assert response.json()["errors"][0]["field"] == field
    assert response.json()["errors"][0]["reason"]


async def test_a_batch_that_is_half_invalid_is_not_taken_and_every_error_is_told(
    gateway: Running, state: Client
) -> None:
    tenant = await gateway.tenant("free")
    wrong: dict[int, dict[str, Any]] = {
        1: {"input": ""},
        3: {"input": "x", "priority": 11, "model": 5},
        5: {"input": "x", "agent": "nobody"},
        7: {"input": "x", "tier": "enterprise"},
        8: {"input": [{"role": "user", "content": ""}]},
    }
    tasks = [wrong.get(n, {"input": "x"}) for n in range(10)]
    response = await submit(gateway, tenant, {"tasks": tasks}, key="half")
    assert response.status_code == 422
    document = response.json()
    assert document["detail"].startswith("4 of the batch's 10 tasks are not valid, and nothing was taken.")
    assert {(error["index"], error["field"], error["pointer"]) for error in document["errors"]} == {
        (1, "tasks.1.input", "#/tasks/1/input"),
        (3, "tasks.3.priority", "#/tasks/3/priority"),
        (3, "tasks.3.model", "#/tasks/3/model"),
        (5, "tasks.5.agent", "#/tasks/5/agent"),
        (8, "tasks.8.input.0.content", "#/tasks/8/input/0/content"),
    }
    above = await submit(gateway, tenant, {"tasks": [tasks[0], tasks[7]]})
    assert (above.status_code, above.json()["errors"][0]["field"]) == (422, "tasks.1.tier")
    assert await _outstanding(state, tenant) == 0
    assert not await state.exists(rate_key(tenant.id))
    assert (await submit(gateway, tenant, questions(1), key="half")).status_code == 202, "the key is free still"


async def test_of_many_errors_the_first_hundred_are_told(gateway: Running) -> None:
    response = await submit(gateway, await gateway.tenant(), {"tasks": [{"priority": 5}] * 300})
    document = response.json()
    assert (response.status_code, len(document["errors"])) == (422, 100)
    assert document["detail"].startswith("300 of the batch's 300 tasks")
    assert "first 100 of 300" in document["detail"]


async def test_a_body_may_be_larger_than_a_tasks_and_no_larger_than_that(gateway: Running) -> None:
    tenant = await gateway.tenant()
    large = {"tasks": [{"input": "x" * 90_000}] * 20}
    assert (await submit(gateway, tenant, large)).status_code == 202
    # Told before any of it is read: nothing but the headers is sent.
    address = gateway.client.base_url
    reader, writer = await asyncio.open_connection(address.host, address.port)
    length = 8 * 1024 * 1024 + 1
    writer.write(f"POST /v1/batches HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n".encode())
    async with asyncio.timeout(10):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"larger than 8388608 bytes" in answer


async def test_the_plans_outstanding_tasks_are_kept_to_as_a_whole(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant("pro", max_outstanding=10)
    assert (await submit(gateway, tenant, questions(6))).status_code == 202
    response = await submit(gateway, tenant, questions(5))
    assert (response.status_code, response.json()["type"]) == (429, "urn:laneway:problem:too-many-outstanding")
    assert await _outstanding(state, tenant) == 6
    assert (await submit(gateway, tenant, questions(4))).status_code == 202


async def test_a_batch_takes_from_the_rate_what_its_tasks_would_have_taken(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant("pro", requests_per_minute=60)
    response = await submit(gateway, tenant, questions(100))
    assert response.status_code == 202, "more than the rate holds, as otherwise it could never be had"
    assert response.headers["RateLimit-Remaining"] == "0"
    refused = await gateway.submit(tenant)
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:laneway:problem:rate-limited")
    assert 35 <= int(refused.headers["Retry-After"]) <= 41, "until the rate has made up for the forty"
    assert await state.ttl(rate_key(tenant.id)) >= 95, "a debt is not forgotten"


async def test_the_same_key_is_the_same_batch(gateway: Running, tap: Tap, state: Client) -> None:
    tenant, key = await gateway.tenant(), f"order-{uuid4()}"
    first = await submit(gateway, tenant, questions(4), key)
    again = await submit(gateway, tenant, questions(4), key)
    assert (first.status_code, again.status_code) == (202, 200)
    assert again.json() == first.json()
    batch = first.json()
    assert [task["id"] for task in batch["tasks"]] == [str(batched_task_id(UUID(batch["id"]), n)) for n in range(4)]
    assert await _outstanding(state, tenant) == 4
    for other in (questions(5), questions(4, priority=6)):
        conflict = await submit(gateway, tenant, other, key)
        assert (conflict.status_code, conflict.json()["type"]) == (409, "urn:laneway:problem:idempotency-conflict")
    single = await gateway.submit(tenant, key=key)
    assert single.status_code == 202, "the key of a batch is no task's"
    await recorded(gateway, batch)
    for task in batch["tasks"]:
        assert len(await tap.messages(task["id"])) == 1


async def test_the_key_is_known_though_redis_is_lost(gateway: Running, state: Client, tap: Tap) -> None:
    tenant, key = await gateway.tenant(), f"order-{uuid4()}"
    batch = (await submit(gateway, tenant, questions(3), key)).json()
    await recorded(gateway, batch)
    await gateway.database.execute(
        "INSERT INTO runtime.runs (task_id, tenant_id, tier, status, fence, attempts)"
        " VALUES ($1, $2, 'pro', 'running', 1, 1)",
        UUID(batch["tasks"][1]["id"]),
        tenant.id,
    )
    await forget(state, tenant)
    assert (await submit(gateway, tenant, questions(3, priority=1), key)).status_code == 409
    again = await submit(gateway, tenant, questions(3), key)
    assert (again.status_code, again.json()) == (200, batch)
    published = Counter({n: len(await tap.messages(task["id"])) for n, task in enumerate(batch["tasks"])})
    assert published[1] == 1, "a worker has it: its lane must have had it"
    first, second = (unseal(message) for message in await tap.messages(batch["tasks"][0]["id"], 2))
    assert isinstance(first, TaskSubmitted)
    assert isinstance(second, TaskSubmitted)
    assert first.submitted_at == second.submitted_at, "of two messages only one is ever run"
    assert await _outstanding(state, tenant) == 2


async def _drained(stage: Stage, tier: str) -> None:
    with stage.management() as client:
        assert client.delete(f"/api/queues/{stage.name}/{lane(tier)}/contents").is_success


async def test_a_lane_that_fills_up_in_the_middle_is_told_task_by_task(
    gateway: Running, stage: Stage, state: Client
) -> None:
    tenant, key = await gateway.tenant("free"), f"order-{uuid4()}"
    await _drained(stage, "free")
    with full(stage, "free", 20):

        async def filling() -> list[dict[str, Any]]:
            # The broker learns of the policy after us; a batch that came too early is another one.
            response = await submit(gateway, tenant, questions(200), key + str(uuid4()))
            if response.status_code == 207:
                return [response.json()]
            await _drained(stage, "free")
            return []

        await eventually(filling)
        await _drained(stage, "free")
        before = await _outstanding(state, tenant)
        response = await submit(gateway, tenant, questions(300), key)
        assert response.status_code == 207
        assert response.headers["Retry-After"]
        batch = response.json()
        fates = Counter(task["status"] for task in batch["tasks"])
        assert fates["accepted"] >= 20
        assert fates["refused"] == 300 - fates["accepted"] > 0
        assert all(task["reason"] for task in batch["tasks"] if task["status"] == "refused")
        assert batch["complete"] is False
        assert await _outstanding(state, tenant) - before == fates["accepted"]
    await _drained(stage, "free")

    async def completed() -> list[dict[str, Any]]:
        again = await submit(gateway, tenant, questions(300), key)
        await _drained(stage, "free")
        return [again.json()] if again.status_code == 200 else []

    (whole,) = await eventually(completed, 30)
    assert whole["complete"]
    assert [task["id"] for task in whole["tasks"]] == [task["id"] for task in batch["tasks"]]
    assert whole["created_at"] == batch["created_at"]


async def test_what_a_lane_refused_of_a_batch_without_a_key_comes_to_an_end(gateway: Running, stage: Stage) -> None:
    tenant = await gateway.tenant("free")
    await _drained(stage, "free")
    with full(stage, "free", 5):

        async def filling() -> list[dict[str, Any]]:
            response = await submit(gateway, tenant, questions(200))
            await _drained(stage, "free")
            return [response.json()] if response.status_code == 207 else []

        (batch,) = await eventually(filling)
    refused = sum(task["status"] == "refused" for task in batch["tasks"])

    async def ended() -> bool:
        return bool((await read(gateway, tenant, batch))["counts"]["failed"] == refused)

    await eventually(ended)
    results = await gateway.client.get(batch["links"]["results"] + "?limit=100", headers=tenant.headers)
    failed = [result for result in results.json()["items"] if result["status"] == "failed"]
    assert {result["error"]["type"] for result in failed} <= {"lane_full"}


async def test_another_tenants_batch_reads_like_none(gateway: Running) -> None:
    owner, other = await gateway.tenant(), await gateway.tenant()
    batch = (await submit(gateway, owner, questions(2))).json()
    await recorded(gateway, batch)
    for method, address in (("GET", ""), ("GET", "/events"), ("GET", "/results"), ("POST", "/cancel")):
        for named in (batch["id"], str(uuid4()), "no-id"):
            response = await gateway.client.request(method, f"/v1/batches/{named}{address}", headers=other.headers)
            assert (response.status_code, response.json()["type"]) == (404, "urn:laneway:problem:not-found")
    assert (await read(gateway, owner, batch))["counts"]["queued"] == 2


async def test_pages_go_through_all_tasks_in_their_order(gateway: Running) -> None:
    tenant = await gateway.tenant()
    batch = (await submit(gateway, tenant, questions(5))).json()
    await recorded(gateway, batch)
    for address in ("", "/results"):
        seen: list[int] = []
        cursor: str | None = "0"
        while cursor is not None:
            where = f"{batch['links']['self']}{address}?limit=2&cursor={cursor}"
            document = (await gateway.client.get(where, headers=tenant.headers)).json()
            page = document if address else document["tasks"]
            seen += [item["index"] for item in page["items"]]
            cursor = page["next_cursor"]
        assert seen == [0, 1, 2, 3, 4]
    wrong = await gateway.client.get(batch["links"]["self"] + "?cursor=x", headers=tenant.headers)
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "cursor")
