"""Submitting: what is accepted is in its lane once; what is not is told why, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from common.admission import OUTSTANDING_SECONDS, level_of, outstanding_key, rate_key, record_key, release
from common.contracts import TaskSubmitted
from common.messaging.envelope import unseal
from common.redis import Client
from gateway.schemas import TASK_REQUEST
from gateway.tickets import request_hash
from tests.integration.gateway.conftest import ADMIN_KEY, Running, Tap, Tenant, forget
from tests.stage import eventually, pipelined


async def _counts(state: Client, tenant: Tenant) -> int:
    return sum([await state.zcard(outstanding_key(tenant.id, priority)) for priority in range(10)])


async def test_an_accepted_task_is_in_its_lane_with_everything_a_worker_needs(gateway: Running, tap: Tap) -> None:
    tenant = await gateway.tenant("pro")
    response = await gateway.submit(tenant, priority=7, metadata={"order": "1"}, max_cost_usd="0.1", temperature=0.5)
    assert response.status_code == 202, response.text
    task = response.json()
    assert response.headers["Location"] == task["links"]["self"] == f"/v1/tasks/{task['id']}"
    assert response.headers["x-laneway-simulated"] == "true"
    assert (task["status"], task["tier"], task["lane"]) == ("queued", "pro", "tasks.pro")
    assert int(response.headers["RateLimit-Limit"]) == 6000
    assert int(response.headers["RateLimit-Remaining"]) == 5999
    (message,) = await tap.messages(task["id"])
    assert (message.routing_key, message.priority, message.delivery_mode) == ("pro", 30, 2)
    submitted = unseal(message)
    assert isinstance(submitted, TaskSubmitted)
    assert (submitted.max_cost_usd, submitted.level, submitted.priority) == (Decimal("0.1"), 30, 7)


@pytest.mark.parametrize(
    ("header", "fresh"), [("no-store", True), ("max-age=0, No-Store", True), ("no-cache", False), ("", False)]
)
async def test_who_wants_no_cached_answer_says_no_store(gateway: Running, tap: Tap, header: str, fresh: bool) -> None:
    tenant = await gateway.tenant()
    headers = {**tenant.headers, "Cache-Control": header}
    one = (await gateway.client.post("/v1/tasks", json={"input": "x"}, headers=headers)).json()
    (message,) = await tap.messages(one["id"])
    batch = (await gateway.client.post("/v1/batches", json={"tasks": [{"input": "x"}]}, headers=headers)).json()
    (batched,) = await tap.messages(batch["tasks"][0]["id"])
    submitted = [unseal(message), unseal(batched)]
    assert [isinstance(one, TaskSubmitted) and one.no_store for one in submitted] == [fresh, fresh]


async def test_a_tenants_level_sinks_with_what_it_has_outstanding_at_the_same_or_a_higher_priority(
    gateway: Running, tap: Tap, state: Client
) -> None:
    tenant = await gateway.tenant("enterprise")
    tasks = [(await gateway.submit(tenant, priority=5)).json()["id"] for _ in range(5)]
    levels = [(await tap.messages(task))[0].priority for task in tasks]
    assert levels == [level_of(rank) for rank in range(5)]
    above = (await gateway.submit(tenant, priority=9)).json()["id"]
    below = (await gateway.submit(tenant, priority=0)).json()["id"]
    assert (await tap.messages(above))[0].priority == 30
    assert (await tap.messages(below))[0].priority == level_of(6)
    for task in tasks:
        await release(pipelined(state), tenant.id, UUID(task), 5)
    assert await _counts(state, tenant) == 2


async def test_the_same_key_is_the_same_task(gateway: Running, state: Client) -> None:
    tenant, key = await gateway.tenant(), f"order-{uuid4()}"
    first, second = await asyncio.gather(gateway.submit(tenant, key=key), gateway.submit(tenant, key=key))
    third = await gateway.submit(tenant, key=key)
    assert sorted((first.status_code, second.status_code)) == [200, 202]
    assert third.status_code == 200
    assert first.json() == second.json() == third.json()
    assert await _counts(state, tenant) == 1
    assert (await gateway.submit(tenant, key=key, priority=6)).status_code == 409
    assert (await gateway.submit(await gateway.tenant(), key=key)).status_code == 202


async def _record(gateway: Running, tenant: Tenant, task: dict[str, Any]) -> None:
    """As the persister does."""
    await gateway.database.execute(
        "INSERT INTO history.tasks (task_id, tenant_id, tier, priority, request_hash, submitted_at)"
        " VALUES ($1, $2, 'pro', 5, $3, $4)",
        UUID(task["id"]),
        tenant.id,
        request_hash(TASK_REQUEST.validate_json(b'{"input":"What is AI?"}')),
        datetime.fromisoformat(task["created_at"]),
    )


async def test_a_key_is_known_by_the_record_once_redis_forgot(gateway: Running, state: Client) -> None:
    tenant, key = await gateway.tenant(), f"order-{uuid4()}"
    task = (await gateway.submit(tenant, key=key)).json()
    await _record(gateway, tenant, task)
    await gateway.database.execute(
        "INSERT INTO runtime.runs (task_id, tenant_id, tier, status, fence, attempts)"
        " VALUES ($1, $2, 'pro', 'running', 1, 1)",
        UUID(task["id"]),
        tenant.id,
    )
    await forget(state, tenant)
    again = await gateway.submit(tenant, key=key)
    assert (again.status_code, again.json()) == (200, task | {"status": "running"})
    other = await gateway.submit(tenant, key=key, priority=1)
    assert (other.status_code, other.json()["type"]) == (409, "urn:laneway:problem:idempotency-conflict")
    assert await _counts(state, tenant) == 0, "neither was admitted"


async def test_a_recorded_task_without_a_run_is_published_again(gateway: Running, tap: Tap, state: Client) -> None:
    tenant, key = await gateway.tenant(), f"order-{uuid4()}"
    task = (await gateway.submit(tenant, key=key)).json()
    await _record(gateway, tenant, task)
    await forget(state, tenant)
    again = await gateway.submit(tenant, key=key)
    assert (again.status_code, again.json()) == (200, task)
    first, second = [unseal(message) for message in await tap.messages(task["id"], 2)]
    assert isinstance(first, TaskSubmitted)
    assert first.model_copy(update={"level": level_of(1)}) == second, "it was counted again, and by that it counts"
    assert await _counts(state, tenant) == 1, "it is outstanding, wherever it waits"


async def test_a_retry_of_what_was_never_confirmed_is_published(gateway: Running, tap: Tap, state: Client) -> None:
    tenant, key = await gateway.tenant("free"), f"order-{uuid4()}"
    task = (await gateway.submit(tenant, key=key)).json()

    async def accepted() -> bool:
        return bool(await state.hget(record_key(tenant.id, UUID(task["id"])), "state") == b"accepted")

    await eventually(accepted)
    # As its gateway died between the admission and the confirm:
    await state.hset(record_key(tenant.id, UUID(task["id"])), "state", "pending")
    again = await gateway.submit(tenant, key=key)
    assert (again.status_code, again.json()) == (200, task)
    assert len(await tap.messages(task["id"], 2)) == 2
    await eventually(accepted)


@pytest.mark.parametrize("key", ["", "x" * 201, "a\tb"])
async def test_an_unusable_key_is_refused(gateway: Running, key: str) -> None:
    response = await gateway.submit(await gateway.tenant(), key=key)
    assert response.status_code == 422
    assert response.json()["errors"][0]["field"] == "Idempotency-Key"


async def test_over_the_rate_it_says_when_to_come_back(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant(requests_per_minute=3)
    answers = [await gateway.submit(tenant) for _ in range(4)]
    assert [one.status_code for one in answers] == [202, 202, 202, 429]
    last = answers[-1]
    assert last.json()["type"] == "urn:laneway:problem:rate-limited"
    assert 0 < int(last.headers["Retry-After"]) <= 20
    assert (last.headers["RateLimit-Limit"], last.headers["RateLimit-Remaining"]) == ("3", "0")
    assert int(last.headers["RateLimit-Reset"]) > 0
    await state.hset(rate_key(tenant.id), "tokens", 1)
    assert (await gateway.submit(tenant)).status_code == 202


async def test_more_than_the_plan_may_have_outstanding_is_refused_until_some_end(
    gateway: Running, state: Client
) -> None:
    tenant = await gateway.tenant(max_outstanding=2)
    first, _ = [(await gateway.submit(tenant)).json()["id"] for _ in range(2)]
    refused = await gateway.submit(tenant)
    assert (refused.status_code, refused.json()["type"]) == (429, "urn:laneway:problem:too-many-outstanding")
    assert int(refused.headers["Retry-After"]) > 0
    await release(pipelined(state), tenant.id, UUID(first), 5)
    assert (await gateway.submit(tenant)).status_code == 202


async def test_what_was_never_given_back_is_forgotten(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant(max_outstanding=5)
    for priority in range(10):
        await state.zadd(outstanding_key(tenant.id, priority), {f"lost-{priority}": 1.0})
    assert (await gateway.submit(tenant)).status_code == 202
    assert await _counts(state, tenant) < 10


async def test_a_request_may_name_a_lower_tier_and_never_a_higher(gateway: Running) -> None:
    tenant = await gateway.tenant("pro")
    assert (await gateway.submit(tenant, tier="free")).json()["lane"] == "tasks.free"
    assert (await gateway.submit(tenant, tier="pro")).status_code == 202
    above = await gateway.submit(tenant, tier="enterprise")
    assert (above.status_code, above.json()["type"]) == (403, "urn:laneway:problem:forbidden")
    unknown = await gateway.submit(tenant, tier="gold")
    assert (unknown.status_code, unknown.json()["errors"][0]["field"]) == (422, "tier")


async def test_bodies_that_are_none(gateway: Running) -> None:
    tenant = await gateway.tenant()
    headers = tenant.headers | {"Content-Type": "application/json"}
    for body in (b"", b"{", b"not json", b"\xff\xfe", b'{"input":"x"} trailing'):
        response = await gateway.client.post("/v1/tasks", content=body, headers=headers)
        assert (response.status_code, response.json()["detail"]) == (422, "The body is not JSON.")
    form = await gateway.client.post("/v1/tasks", data={"input": "x"}, headers=tenant.headers)
    assert (form.status_code, form.headers["content-type"]) == (415, "application/problem+json")
    assert "Content-Type: application/json" in form.json()["detail"]
    response = await gateway.client.post("/v1/tasks", content=b"[]", headers=headers)
    assert response.status_code == 422
    assert response.json()["errors"]


@pytest.mark.parametrize("address", ["/v1/tasks", "/v1/chat/stream", "/v1/admin/tenants"])
async def test_a_body_that_is_too_large_is_refused_before_it_is_read(gateway: Running, address: str) -> None:
    tenant = await gateway.tenant()
    key = ADMIN_KEY if "admin" in address else tenant.key
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    host, port = gateway.client.base_url.host, gateway.client.base_url.port
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST {address} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {key}\r\n"
    writer.write(f"{head}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    for _ in range(3):
        writer.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
    # The body has not ended, and never will.
    assert (await reader.readline()).split()[1] == b"413"
    writer.close()
    announced = await gateway.client.post(address, content=b" " * (128 * 1024 + 1), headers=headers)
    assert (announced.status_code, announced.json()["type"]) == (413, "urn:laneway:problem:too-large")


async def test_the_largest_body_that_may_be(gateway: Running) -> None:
    headers = (await gateway.tenant()).headers | {"Content-Type": "application/json"}
    fits = await gateway.client.post("/v1/tasks", content=b'{"input":"x"}'.ljust(128 * 1024), headers=headers)
    assert fits.status_code == 202


async def test_a_pointer_leads_to_the_field_and_a_parameter_has_none(gateway: Running) -> None:
    tenant = await gateway.tenant()

    async def errors(body: dict[str, Any], **headers: str) -> list[tuple[str, str | None]]:
        response = await gateway.client.post("/v1/tasks", json=body, headers=tenant.headers | headers)
        assert response.status_code == 422
        return [(error["field"], error.get("pointer")) for error in response.json()["errors"]]

    odd = {"text": 1, "messages": 1, "body": 1, "a/b~ c": 1}
    assert await errors({"input": "x", "metadata": odd}) == [
        ("metadata.text", "#/metadata/text"),
        ("metadata.messages", "#/metadata/messages"),
        ("metadata.body", "#/metadata/body"),
        ("metadata.a/b~ c", "#/metadata/a~1b~0%20c"),
    ]
    assert await errors({"input": "x", "metadata": {"": "x"}}) == [("metadata.", "#/metadata/")]
    assert await errors({"input": [{"role": "user", "content": 5}]}) == [("input.0.content", "#/input/0/content")]
    assert await errors({"input": 5}) == [("input", "#/input")]
    assert await errors({"input": "x", "text": 5}) == [("text", "#/text")]
    assert await errors({"input": "x"}, **{"Idempotency-Key": ""}) == [("Idempotency-Key", None)]
    query = await gateway.client.get("/v1/tasks?limit=0&status=x", headers=tenant.headers)
    assert [error.keys() for error in query.json()["errors"]] == [{"field", "reason"}] * 2
    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    made = await gateway.client.post("/v1/admin/tenants", json={"name": "", "plan": "pro"}, headers=admin)
    assert (made.json()["errors"][0]["field"], made.json()["errors"][0]["pointer"]) == ("name", "#/name")


async def test_a_task_of_later_counts_as_outstanding_until_its_time(gateway: Running, state: Client) -> None:
    tenant, day = await gateway.tenant(), 86_400
    start = datetime.now(UTC) + timedelta(seconds=day)
    later = await gateway.submit(tenant, not_before=start.isoformat())
    await gateway.submit(tenant)  # which is forgotten sooner, and must not take the other with it
    place = outstanding_key(tenant.id, 5)
    until = await state.zscore(place, later.json()["id"])
    assert until is not None
    assert abs(until / 1000 - start.timestamp() - OUTSTANDING_SECONDS) < 60
    assert await state.ttl(place) > day


async def test_what_a_task_waits_for_is_in_its_message(gateway: Running, tap: Tap) -> None:
    start = datetime.now(UTC) + timedelta(hours=1)
    fields: dict[str, Any] = {
        "concurrency_key": "k",
        "concurrency_limit": 3,
        "not_before": start.isoformat(),
        "deadline_seconds": 7200,
    }
    answer = await gateway.submit(await gateway.tenant(), **fields)
    (message,) = await tap.messages(answer.json()["id"])
    task = TaskSubmitted.decode(message.body)
    assert (task.not_before, task.concurrency_key, task.concurrency_limit) == (start, "k", 3)
    assert task.deadline_at == task.submitted_at + timedelta(hours=2)


async def test_times_that_contradict_each_other_are_both_named_and_nothing_is_counted(
    gateway: Running, state: Client
) -> None:
    tenant = await gateway.tenant()
    start = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    answer = await gateway.submit(tenant, not_before=start, deadline_seconds=60)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["not_before", "deadline_seconds"]
    assert await state.zcard(outstanding_key(tenant.id, 5)) == 0
