"""A lane at its length limit: the record gets its copy of what the lane refuses, and is not taken for the truth."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from uuid import uuid4

import aio_pika
import httpx2
import pytest

from common.contracts import TaskSubmitted
from common.messaging.envelope import unseal
from common.messaging.topology import lane
from tests.integration.gateway.batching import recording
from tests.integration.gateway.conftest import Running, Tenant
from tests.stage import Stage, eventually

_LANE = lane("free")


@pytest.fixture(autouse=True)
async def recorded(stage: Stage) -> AsyncIterator[None]:
    """Every test needs the persister itself."""
    async with recording(stage):
        yield


@contextmanager
def _full(stage: Stage) -> Iterator[None]:
    """A policy under which the lane takes one message at most."""
    path = f"/api/policies/{stage.name}/full"
    definition = {"max-length": 1, "overflow": "reject-publish"}
    policy = {"pattern": f"^{_LANE}$", "apply-to": "quorum_queues", "priority": 9, "definition": definition}
    with stage.management() as client:
        assert client.put(path, json=policy).is_success
        try:
            yield
        finally:
            assert client.delete(path).is_success


async def _in_lane(stage: Stage, task_id: str) -> list[TaskSubmitted]:
    """The lane's messages of a task; takes everything out of the lane."""
    address = urlsplit(stage.servers.rabbit_url)._replace(path=f"/{stage.name}").geturl()
    found = []
    async with await aio_pika.connect(address) as connection:
        queue = await (await connection.channel()).get_queue(_LANE)
        while (message := await queue.get(no_ack=True, fail=False)) is not None:
            contract = unseal(message)
            if isinstance(contract, TaskSubmitted) and str(contract.task_id) == task_id:
                found.append(contract)
    return found


async def _refused(gateway: Running, tenant: Tenant, **fields: str) -> httpx2.Response:
    """The first answer that is a refusal: the broker fills the lane a little above its limit, and learns of it late."""

    async def refusals() -> list[httpx2.Response]:
        response = await gateway.submit(tenant, **fields)
        return [response] if response.status_code == 503 else []

    (response,) = await eventually(refusals)
    assert (response.json()["type"], response.headers["Retry-After"]) == ("urn:laneway:problem:lane-full", "2")
    return response


async def _listed(gateway: Running, tenant: Tenant) -> dict[str, dict[str, object]]:
    page = await gateway.client.get("/v1/tasks", headers=tenant.headers)
    return {task["id"]: task for task in page.json()["items"]}


async def _fill(gateway: Running) -> None:
    await _refused(gateway, await gateway.tenant("free"))


async def test_a_keyed_retry_of_what_the_lane_refused_reaches_the_lane(gateway: Running, stage: Stage) -> None:
    tenant, key = await gateway.tenant("free"), f"order-{uuid4()}"
    with _full(stage):
        await _fill(gateway)
        assert (await gateway.submit(tenant, key=key, deadline_seconds=600)).status_code == 503

        async def recorded() -> dict[str, dict[str, object]]:
            return await _listed(gateway, tenant)

        ((task_id, task),) = (await eventually(recorded)).items()
        assert task["status"] == "queued"
        assert (await gateway.submit(tenant, key=key, deadline_seconds=600)).status_code == 503, "still full"
    await _in_lane(stage, task_id)

    async def accepted() -> list[httpx2.Response]:
        # The broker learns of the policy's end after us.
        response = await gateway.submit(tenant, key=key, deadline_seconds=600)
        return [response] if response.status_code != 503 else []

    (again,) = await eventually(accepted)
    assert (again.status_code, again.json()["id"], again.json()["status"]) == (200, task_id, "queued")
    assert again.json()["created_at"] == task["created_at"]
    (message,) = await _in_lane(stage, task_id)
    assert message.submitted_at.isoformat() == task["created_at"], "the same message, deadline and all"
    assert message.deadline_at is not None
    assert (message.deadline_at - message.submitted_at).total_seconds() == 600
    assert (await gateway.submit(tenant, key=key, deadline_seconds=600)).json() == again.json()
    assert not await _in_lane(stage, task_id), "an accepted task is not published again"


async def test_a_refused_task_without_a_key_comes_to_an_end(gateway: Running, stage: Stage) -> None:
    tenant = await gateway.tenant("free")
    with _full(stage):
        await _fill(gateway)
        assert (await gateway.submit(tenant)).status_code == 503

        async def ended() -> list[dict[str, object]]:
            return [task for task in (await _listed(gateway, tenant)).values() if task["status"] == "failed"]

        (task,) = await eventually(ended)
    assert task["error"] == {
        "type": "lane_full",
        "message": "the lane took no more tasks, and the submission was refused",
    }
    stream = await gateway.client.get(f"/v1/tasks/{task['id']}/events", headers=tenant.headers)
    assert "event: done" in stream.text
    await _in_lane(stage, "")


async def test_a_task_that_runs_is_not_ended_by_a_refusal(gateway: Running, stage: Stage) -> None:
    tenant, task_id = await gateway.tenant("free"), uuid4()
    await gateway.database.execute(
        "INSERT INTO runtime.runs (task_id, tenant_id, tier, status, fence, attempts)"
        " VALUES ($1, $2, 'free', 'running', 1, 1)",
        task_id,
        tenant.id,
    )
    refuse = "SELECT runtime.refuse($1, $2, 'free', $3, now())"
    await gateway.database.execute(refuse, task_id, tenant.id, b"an end")
    status = "SELECT status FROM runtime.runs WHERE task_id = $1"
    assert await gateway.database.fetchval(status, task_id) == "running"
