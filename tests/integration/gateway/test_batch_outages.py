"""Batches when a server goes away in the middle: each task is told for what it is, and nothing happens twice."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any
from uuid import uuid4

import pytest

from common.admission import outstanding_key
from common.redis import Client
from gateway import batch_publishing
from gateway.batch_publishing import BatchPublisher
from tests.integration.gateway.batching import questions, read, recorded, recording, submit
from tests.integration.gateway.conftest import Fragile, Tap, Tenant
from tests.stage import Stage, eventually


async def _outstanding(state: Client, tenant: Tenant) -> int:
    return await state.zcard(outstanding_key(tenant.id, 5))


@pytest.fixture
def dying(fragile: Fragile, monkeypatch: pytest.MonkeyPatch) -> None:
    """The broker goes away once forty tasks of a batch are accepted."""
    publish = BatchPublisher._until_known
    accepted = 0

    async def until_the_fortieth(self: BatchPublisher, *asked: Any) -> Any:
        nonlocal accepted
        fate = await publish(self, *asked)
        accepted += 1
        if accepted == 40:
            fragile.rabbit.cut()
        return fate

    monkeypatch.setattr(BatchPublisher, "_until_known", until_the_fortieth)


async def _back(fragile: Fragile) -> None:
    fragile.rabbit.restore()

    async def ready() -> bool:
        return await fragile.readiness() == 200

    await eventually(ready, 30)


def _same_task(one: bytes, other: bytes) -> bool:
    """All but the level, which follows from when it was admitted."""
    first, second = json.loads(one), json.loads(other)
    return bool(first | {"level": 0} == second | {"level": 0})


async def test_a_broker_that_dies_in_the_middle_is_told_task_by_task(
    fragile: Fragile, dying: None, state: Client, tap: Tap, stage: Stage
) -> None:
    tenant, key = await fragile.gateway.tenant(), f"order-{uuid4()}"
    response = await submit(fragile.gateway, tenant, questions(400), key)
    assert response.status_code == 207, response.text
    batch = response.json()
    fates = Counter(task["status"] for task in batch["tasks"])
    assert fates["accepted"] >= 40
    assert fates["unsent"] > 0
    assert fates.total() == 400
    assert all(task["reason"] for task in batch["tasks"] if task["status"] != "accepted")
    assert await _outstanding(state, tenant) == fates["accepted"]
    await _back(fragile)
    again = await submit(fragile.gateway, tenant, questions(400), key)
    assert (again.status_code, again.json()["complete"]) == (200, True)
    assert again.json()["created_at"] == batch["created_at"]
    assert await _outstanding(state, tenant) == 400
    for task in batch["tasks"]:
        first, *more = [message.body for message in await tap.messages(task["id"])]
        assert all(_same_task(first, other) for other in more)
    async with recording(stage):
        await recorded(fragile.gateway, batch)
        assert (await read(fragile.gateway, tenant, batch))["counts"]["queued"] == 400


async def test_what_was_not_sent_of_a_batch_without_a_key_ends_and_says_so(
    fragile: Fragile, dying: None, stage: Stage
) -> None:
    tenant = await fragile.gateway.tenant()
    batch = (await submit(fragile.gateway, tenant, questions(400))).json()
    fates = {task["index"]: task["status"] for task in batch["tasks"]}
    unsent = [index for index, fate in fates.items() if fate == "unsent"]
    assert unsent

    async def ended() -> bool:
        return bool((await read(fragile.gateway, tenant, batch))["counts"]["failed"] == len(unsent))

    await eventually(ended)
    page = f"{batch['links']['results']}?limit=1&cursor={unsent[-1]}"
    (result,) = (await fragile.gateway.client.get(page, headers=tenant.headers)).json()["items"]
    assert (result["status"], result["error"]["type"]) == ("failed", "not_sent")
    assert "before this task was sent" in result["error"]["message"]


@pytest.mark.parametrize("key", [None, "order"])
async def test_a_batch_of_which_nothing_is_known_is_told_all_the_same(
    fragile: Fragile, stage: Stage, state: Client, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    monkeypatch.setattr(batch_publishing, "_PUBLISH_SECONDS", 0.3)
    tenant = await fragile.gateway.tenant()
    fragile.rabbit.hang()
    response = await submit(fragile.gateway, tenant, questions(70), key)
    problem, batch = response.json(), response.json()["batch"]
    assert (response.status_code, problem["type"]) == (503, "urn:laneway:problem:unavailable")
    assert ("same Idempotency-Key" in problem["detail"]) == (key is not None)
    assert response.headers["Location"] == batch["links"]["self"]
    fates = Counter(task["status"] for task in batch["tasks"])
    assert fates == {"unknown": 64, "unsent": 6}, "as many as are sent at a time"
    assert await _outstanding(state, tenant) == 0
    found = await read(fragile.gateway, tenant, batch)
    assert found["counts"]["unrecorded"] + found["counts"]["failed"] == 70
    await _back(fragile)
    if key is not None:
        other = await submit(fragile.gateway, tenant, questions(3), key)
        assert other.status_code == 409, "it may have been accepted: its key is taken"
        monkeypatch.undo()

        async def whole() -> list[Any]:
            again = await submit(fragile.gateway, tenant, questions(70), key)
            return [again] if again.status_code == 200 else []

        (again,) = await eventually(whole, 30)
        assert (again.json()["id"], again.json()["complete"]) == (batch["id"], True)


async def test_without_redis_a_batch_is_accepted_at_a_neutral_level_and_its_key_is_known(
    fragile: Fragile, stage: Stage, state: Client, tap: Tap
) -> None:
    tenant, key = await fragile.gateway.tenant(), f"order-{uuid4()}"
    fragile.redis.cut()
    async with recording(stage):
        first = await submit(fragile.gateway, tenant, questions(5), key)
        assert (first.status_code, first.json()["complete"]) == (202, True)
        batch = first.json()
        for task in batch["tasks"]:
            assert [message.priority for message in await tap.messages(task["id"])] == [15]
        await recorded(fragile.gateway, batch)
        again = await submit(fragile.gateway, tenant, questions(5), key)
        assert (again.status_code, again.json()) == (200, batch)
        assert (await submit(fragile.gateway, tenant, questions(5, priority=1), key)).status_code == 409
        assert (await read(fragile.gateway, tenant, batch))["counts"]["queued"] == 5
        cancel = await fragile.gateway.client.post(batch["links"]["cancel"], headers=tenant.headers)
        assert (cancel.status_code, cancel.json()["cancelled"]) == (200, 5)
