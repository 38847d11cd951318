"""Schedules over HTTP: made, read, changed and deleted by their tenant alone, and refused with the reason."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import httpx2
import pytest

from common.contracts import TaskSubmitted
from common.contracts.identifiers import scheduled_task_id
from common.messaging.envelope import unseal
from gateway import schedule_records
from tests.integration.gateway.conftest import Running, Tap, Tenant

BODY: dict[str, Any] = {
    "cron": "0 9 * * 1-5",
    "time_zone": "Europe/Vienna",
    "missed": "run_once",
    "name": "morning report",
    "task": {"input": "Summarise the night.", "agent": "analyst", "priority": 7, "max_cost_usd": "0.05"},
}


@pytest.fixture
async def tenant(gateway: Running) -> AsyncIterator[Tenant]:
    made = await gateway.tenant()
    yield made
    await gateway.database.execute("DELETE FROM runtime.schedules WHERE tenant_id = $1", made.id)


async def make(gateway: Running, tenant: Tenant, **changes: Any) -> httpx2.Response:
    return await gateway.client.post("/v1/schedules", json=BODY | changes, headers=tenant.headers)


async def read(gateway: Running, tenant: Tenant, address: str) -> httpx2.Response:
    return await gateway.client.get(address, headers=tenant.headers)


async def change(gateway: Running, tenant: Tenant, address: str, **changes: Any) -> httpx2.Response:
    return await gateway.client.patch(address, json=changes, headers=tenant.headers)


async def test_a_schedule_is_read_as_it_was_made(gateway: Running, tenant: Tenant) -> None:
    before = datetime.now(UTC)
    response = await make(gateway, tenant)
    assert response.status_code == 201, response.text
    made = response.json()
    assert {name: made[name] for name in BODY} == BODY
    assert (made["enabled"], made["waiting"], made["last_tick"], made["ticks"]) == (True, None, None, [])
    assert response.headers["Location"] == made["links"]["self"] == f"/v1/schedules/{made['id']}"
    assert (await read(gateway, tenant, made["links"]["self"])).json() == made
    next_at = datetime.fromisoformat(made["next_at"])
    local = next_at.astimezone(ZoneInfo("Europe/Vienna"))
    assert before < next_at < before + timedelta(days=4)
    assert (local.hour, local.minute, local.isoweekday() < 6) == (9, 0, True)
    listed = (await read(gateway, tenant, "/v1/schedules")).json()
    assert listed == {"items": [{name: made[name] for name in made if name != "ticks"}], "next_cursor": None}


async def test_defaults(gateway: Running, tenant: Tenant) -> None:
    body = {"cron": "*/5 * * * *", "task": {"input": "x"}}
    made = (await gateway.client.post("/v1/schedules", json=body, headers=tenant.headers)).json()
    assert (made["time_zone"], made["missed"], made["name"], made["enabled"]) == ("UTC", "skip", None, True)
    assert made["task"] == {"input": "x"}


async def test_what_is_published_at_a_tick_is_what_a_submission_would_publish(
    gateway: Running, tenant: Tenant, tap: Tap
) -> None:
    task = BODY["task"] | {"user_id": "ada", "metadata": {"order": "4711"}, "deadline_seconds": 60}
    made = (await make(gateway, tenant, task=task)).json()
    submitted = await gateway.submit(tenant, **task)
    (message,) = await tap.messages(submitted.json()["id"])
    sent = unseal(message)
    kept = TaskSubmitted.decode(
        await gateway.database.fetchval(
            "SELECT message FROM runtime.schedules WHERE schedule_id = $1", UUID(made["id"])
        )
    )
    assert isinstance(sent, TaskSubmitted)
    assert sent.deadline_at is not None
    assert kept.deadline_at is not None
    assert sent.deadline_at - sent.submitted_at == kept.deadline_at - kept.submitted_at == timedelta(seconds=60)
    assert (kept.no_store, sent.no_store) == (True, False), "a schedule asks anew each time"
    own = {"task_id", "level", "submitted_at", "deadline_at", "no_store"}
    assert kept.model_dump(exclude=own) == sent.model_dump(exclude=own)


async def test_pages_newest_first(gateway: Running, tenant: Tenant) -> None:
    made = [(await make(gateway, tenant, name=f"number {n}")).json()["id"] for n in range(5)]
    found: list[str] = []
    address: str | None = "/v1/schedules?limit=2"
    while address is not None:
        page = (await read(gateway, tenant, address)).json()
        found += [item["id"] for item in page["items"]]
        address = page["next_cursor"] and f"/v1/schedules?limit=2&cursor={page['next_cursor']}"
    assert found == made[::-1]
    refused = await read(gateway, tenant, "/v1/schedules?cursor=x")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "cursor")


async def test_a_change_changes_what_it_names(gateway: Running, tenant: Tenant) -> None:
    made = (await make(gateway, tenant)).json()
    own = made["links"]["self"]
    named = (await change(gateway, tenant, own, name=None, missed="skip", task={"input": "Another."})).json()
    assert (named["name"], named["missed"], named["task"]) == (None, "skip", {"input": "Another."})
    assert (named["next_at"], named["cron"]) == (made["next_at"], made["cron"])
    assert named["updated_at"] > made["updated_at"]
    moved = (await change(gateway, tenant, own, cron="30 9 * * 1-5")).json()
    assert datetime.fromisoformat(moved["next_at"]).minute == 30
    elsewhere = (await change(gateway, tenant, own, time_zone="Asia/Tokyo")).json()
    local = datetime.fromisoformat(elsewhere["next_at"]).astimezone(ZoneInfo("Asia/Tokyo"))
    assert (local.hour, local.minute) == (9, 30)
    stopped = (await change(gateway, tenant, own, enabled=False)).json()
    assert (stopped["enabled"], stopped["next_at"]) == (False, None)
    going = (await change(gateway, tenant, own, enabled=True)).json()
    assert (going["enabled"], going["next_at"]) == (True, elsewhere["next_at"])
    assert (await read(gateway, tenant, own)).json() == going


async def test_a_tick_that_was_settled_does_not_come_again_by_a_change(gateway: Running, tenant: Tenant) -> None:
    """Though the gateway's clock is behind that of whoever fired it."""
    made = (await make(gateway, tenant, cron="* * * * *")).json()
    tick = datetime.now(UTC).replace(second=0, microsecond=0) + timedelta(minutes=5)
    await gateway.database.execute(
        "INSERT INTO runtime.ticks (schedule_id, tenant_id, tick_at, until, outcome, task_id)"
        " VALUES ($1, $2, $3, $3, 'fired', $4)",
        UUID(made["id"]),
        tenant.id,
        tick,
        uuid4(),
    )
    moved = (await change(gateway, tenant, made["links"]["self"], cron="*/1 * * * *")).json()
    assert datetime.fromisoformat(moved["next_at"]) == tick + timedelta(minutes=1)
    assert moved["ticks"][0]["at"] == moved["last_tick"]["at"]


async def test_changes_at_the_same_time_lose_nothing(gateway: Running, tenant: Tenant) -> None:
    own = (await make(gateway, tenant)).json()["links"]["self"]
    answers = await asyncio.gather(
        change(gateway, tenant, own, name="other"), change(gateway, tenant, own, cron="1 1 * * *")
    )
    assert [answer.status_code for answer in answers] == [200, 200]
    now = (await read(gateway, tenant, own)).json()
    assert (now["name"], now["cron"]) == ("other", "1 1 * * *")


async def test_a_deleted_schedule_is_gone(gateway: Running, tenant: Tenant) -> None:
    own = (await make(gateway, tenant)).json()["links"]["self"]
    gone = await gateway.client.delete(own, headers=tenant.headers)
    assert (gone.status_code, gone.content) == (204, b"")
    again = await gateway.client.delete(own, headers=tenant.headers)
    assert (again.status_code, (await read(gateway, tenant, own)).status_code) == (404, 404)
    assert (await read(gateway, tenant, "/v1/schedules")).json()["items"] == []


async def test_what_its_lane_refused_ends_when_nobody_will_try_it_again(gateway: Running, tenant: Tenant) -> None:
    made = (await make(gateway, tenant)).json()
    tick = datetime.fromisoformat(made["next_at"])
    await gateway.database.execute("UPDATE runtime.schedules SET waiting = 'lane_full'")
    await gateway.client.delete(made["links"]["self"], headers=tenant.headers)
    status = "SELECT status FROM runtime.runs WHERE task_id = $1"
    assert await gateway.database.fetchval(status, scheduled_task_id(UUID(made["id"]), tick)) == "failed"


@pytest.mark.parametrize("waiting", ["broker_unavailable", "internal_error", "publishing"])
async def test_what_its_lane_may_have_goes_on(gateway: Running, tenant: Tenant, waiting: str) -> None:
    deleted, changed = [(await make(gateway, tenant)).json() for _ in range(2)]
    await gateway.database.execute("UPDATE runtime.schedules SET waiting = $1", waiting)
    assert (await gateway.client.delete(deleted["links"]["self"], headers=tenant.headers)).status_code == 204
    assert (await change(gateway, tenant, changed["links"]["self"], cron="1 1 * * *")).status_code == 200
    runs = "SELECT count(*) FROM runtime.runs WHERE tenant_id = $1"
    assert await gateway.database.fetchval(runs, tenant.id) == 0


async def test_another_tenants_schedule_reads_the_same_as_none(gateway: Running, tenant: Tenant) -> None:
    own = (await make(gateway, tenant)).json()["links"]["self"]
    other = await gateway.tenant()
    for address in (own, f"/v1/schedules/{uuid4()}", "/v1/schedules/none"):
        answers = [
            await read(gateway, other, address),
            await change(gateway, other, address, enabled=False),
            await gateway.client.delete(address, headers=other.headers),
        ]
        assert {answer.status_code for answer in answers} == {404}
        assert {answer.json()["detail"] for answer in answers} == {"There is no such schedule."}
    assert (await read(gateway, other, "/v1/schedules")).json()["items"] == []
    assert (await read(gateway, tenant, own)).json()["enabled"] is True
    assert (await gateway.client.get(own)).status_code == 401


@pytest.mark.parametrize(
    ("changes", "field", "reason"),
    [
        ({"cron": "every day"}, "cron", "has 2 fields; write 5"),
        ({"cron": "* * * * * *"}, "cron", "more often than each minute"),
        ({"cron": "0 25 * * *"}, "cron", "the hour is not one that ever comes"),
        ({"cron": "0 0 31 2 *"}, "cron", "the day of month is not one"),
        ({"cron": 5}, "cron", "valid string"),
        ({"cron": None}, "cron", "valid string"),
        ({"cron": "0 9 * * *\0"}, "cron", "U+0000"),
        ({"time_zone": "Europe/Wien"}, "time_zone", "no time zone 'Europe/Wien'"),
        ({"time_zone": "../UTC"}, "time_zone", "no time zone"),
        ({"missed": "all"}, "missed", "'skip' or 'run_once'"),
        ({"enabled": "yes"}, "enabled", "valid boolean"),
        ({"name": ""}, "name", "at least 1 "),
        ({"every": "day"}, "every", "not permitted"),
        ({"task": None}, "task", "should be an object"),
        ({"task": {}}, "task.input", "Field required"),
        ({"task": {"input": " "}}, "task.input", "must not be empty"),
        ({"task": {"input": [{"role": "robot", "content": "x"}]}}, "task.input.0.role", "'user' or 'assistant'"),
        ({"task": {"input": "x", "agent": "nobody"}}, "task.agent", "there is no agent 'nobody'"),
        ({"task": {"input": "x", "model": "gpt-0"}}, "task.model", "there is no model 'gpt-0'"),
        ({"task": {"input": "x", "priority": 10}}, "task.priority", "less than or equal to 9"),
        ({"task": {"input": "x", "tier": "gold"}}, "task.tier", "there is no tier 'gold'"),
        ({"task": {"input": "x", "tier": "enterprise"}}, "task.tier", "above this user's tier 'pro'"),
        ({"task": {"input": "x", "not_before": "2027-01-01T00:00:00Z"}}, "task.not_before", "the schedule says when"),
        ({"task": {"input": "x", "metadata": {"schedule_id": "1"}}}, "task.metadata", "set by the schedule itself"),
    ],
)
async def test_what_is_wrong_is_refused_with_the_field_and_the_reason(
    gateway: Running, tenant: Tenant, changes: dict[str, Any], field: str, reason: str
) -> None:
    kept = (await make(gateway, tenant)).json()
    for answer in (
        await make(gateway, tenant, **changes),
        await change(gateway, tenant, kept["links"]["self"], **changes),
    ):
        assert answer.status_code == 422, answer.text
        error = answer.json()["errors"][0]
        assert (error["field"], error["pointer"]) == (field, "#/" + field.replace(".", "/"))
        assert reason in error["reason"]
        assert answer.json()["detail"] == f"{field}: {error['reason']}"
    assert (await read(gateway, tenant, "/v1/schedules")).json()["items"] == [
        {name: kept[name] for name in kept if name != "ticks"}
    ]


@pytest.mark.parametrize(
    ("body", "status", "detail"),
    [
        ("{", 422, "The body is not JSON."),
        ("[]", 422, "The body is not an object"),
        ('{"cron": "0 9 * * *"}', 422, "task: Field required"),
        ('{"task": {"input": "x"}}', 422, "cron: Field required"),
        ('{"cron": "' + "x" * 140_000 + '"}', 413, "larger than 131072 bytes"),
    ],
)
async def test_a_body_that_is_no_schedule(
    gateway: Running, tenant: Tenant, body: str, status: int, detail: str
) -> None:
    headers = tenant.headers | {"Content-Type": "application/json"}
    answer = await gateway.client.post("/v1/schedules", content=body, headers=headers)
    assert answer.status_code == status
    assert detail in answer.json()["detail"]


async def test_a_tenant_has_only_so_many(gateway: Running, tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    few = schedule_records._ADD.replace("< 100", "< 3")
    assert few != schedule_records._ADD
    monkeypatch.setattr(schedule_records, "_ADD", few)
    answers = await asyncio.gather(*(make(gateway, tenant) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [422] * 5
    refused = next(answer for answer in answers if answer.status_code == 422)
    assert "at most 100 schedules: delete one" in refused.json()["detail"]
    assert (await make(gateway, await gateway.tenant())).status_code == 201
