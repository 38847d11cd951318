"""Reading tasks and usage: whichever record is furthest, and never another tenant's."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from common.admission import outstanding_key
from common.contracts import CancelRequested, RunFinished
from common.contracts.runs import Fallback, Routing, RunError
from common.contracts.usage import Usage
from common.messaging.envelope import unseal
from common.messaging.topology import CONTROL
from common.redis import Client
from gateway import tasks
from tests.integration.gateway.conftest import ADMIN_KEY, Running, Tenant, forget, tapping
from tests.stage import eventually

_BEGAN = datetime(2026, 5, 1, 12, tzinfo=UTC)
_MOVE = Fallback(step=1, from_model="first", to_model="second", reason="provider_unavailable")


async def _recorded(gateway: Running, tenant: Tenant, **columns: Any) -> UUID:
    """A task as the persister records it."""
    task_id = uuid4()
    values = {
        "task_id": task_id,
        "tenant_id": tenant.id,
        "tier": "pro",
        "submitted_at": _BEGAN,
        "priority": 5,
    } | columns
    names, places = ", ".join(values), ", ".join(f"${n}" for n in range(1, len(values) + 1))
    await gateway.database.execute(f"INSERT INTO history.tasks ({names}) VALUES ({places})", *values.values())
    return task_id


async def _run(gateway: Running, tenant: Tenant, task_id: UUID, status: str, **columns: Any) -> None:
    """A task's run as a worker leaves it."""
    values = {"task_id": task_id, "tenant_id": tenant.id, "tier": "pro", "status": status, "fence": 1, "attempts": 1}
    values |= columns
    names, places = ", ".join(values), ", ".join(f"${n}" for n in range(1, len(values) + 1))
    await gateway.database.execute(f"INSERT INTO runtime.runs ({names}) VALUES ({places})", *values.values())


async def _charged(gateway: Running, tenant: Tenant, task_id: UUID, charge: str, state: str = "settled") -> None:
    attempt = uuid4()
    price = await gateway.database.fetchval("SELECT min(price_id) FROM billing.prices")
    await gateway.database.execute(
        "INSERT INTO billing.holds (attempt_id, tenant_id, task_id, fence, step, call, provider, model, price_id,"
        " amount, charged, state, day) VALUES ($1, $2, $3, 1, 1, 1, 'anthropic', 'm', $4, 1, $5, $6, current_date)",
        attempt,
        tenant.id,
        task_id,
        price,
        Decimal(charge) if state == "settled" else None,
        state,
    )
    if state == "settled":
        await gateway.database.execute(
            "INSERT INTO billing.usage (attempt_id, tenant_id, task_id, agent, provider, model, step, call,"
            " input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,"
            " reasoning_tokens, vector, estimated, price_id, cost, charge, variance, metadata, recorded_at)"
            " VALUES ($1, $2, $3, 'default', 'anthropic', 'm', 1, 1, 10, 0, 0, 0, 5, 0, '{}', false, $6,"
            " $4, $4, 0, '{}', $5)",
            attempt,
            tenant.id,
            task_id,
            Decimal(charge),
            _BEGAN,
            price,
        )


async def _read(gateway: Running, tenant: Tenant, task_id: UUID | str) -> dict[str, Any]:
    response = await gateway.client.get(f"/v1/tasks/{task_id}", headers=tenant.headers)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


async def test_a_task_can_be_read_before_anybody_recorded_it(gateway: Running) -> None:
    tenant = await gateway.tenant()
    receipt = (await gateway.submit(tenant)).json()
    task = await _read(gateway, tenant, receipt["id"])
    assert task["status"] == "queued"
    assert receipt.items() <= task.items()
    await _run(gateway, tenant, UUID(receipt["id"]), "running", started_at=datetime.now(UTC))
    running = await _read(gateway, tenant, receipt["id"])
    assert (running["status"], running["attempts"], running["cost_usd"]) == ("running", 1, None)
    assert running["created_at"] == receipt["created_at"]
    assert running.keys() >= task.keys()


async def test_a_finished_task_shows_everything_and_its_cost_once_it_is_settled(gateway: Running) -> None:
    tenant = await gateway.tenant()
    task_id = await _recorded(
        gateway, tenant, status="completed", output="A field.", steps=2, attempts=1, model="m", agent="default",
        started_at=_BEGAN + timedelta(seconds=1), finished_at=_BEGAN + timedelta(seconds=3.5),
        usage='{"output_tokens": 5}', metadata='{"a": "b"}',
        routing='{"model": "first", "reason": "rule 1"}', fallbacks=json.dumps([_MOVE.model_dump()]),
    )  # fmt: skip
    await _charged(gateway, tenant, task_id, "0.000123")
    await _charged(gateway, tenant, task_id, "0.1")
    task = await _read(gateway, tenant, task_id)
    assert (task["status"], task["output"], task["steps"], task["model"]) == ("completed", "A field.", 2, "m")
    assert (task["queued_ms"], task["duration_ms"], task["cost_usd"]) == (1000, 2500, "0.100123")
    assert (task["routing"], task["fallbacks"]) == ({"model": "first", "reason": "rule 1"}, [_MOVE.model_dump()])
    assert (task["usage"], task["metadata"], task["error"]) == ({"output_tokens": 5}, {"a": "b"}, None)
    await _charged(gateway, tenant, task_id, "0", "open")
    assert (await _read(gateway, tenant, task_id))["cost_usd"] is None


async def test_an_answer_with_a_form_is_shown_as_what_it_says(gateway: Running) -> None:
    tenant = await gateway.tenant()
    ended = {"status": "completed", "output": '{"city": "Wien"}', "finished_at": _BEGAN}
    plain, structured = [await _recorded(gateway, tenant, **ended, structured=form) for form in (False, True)]
    assert (await _read(gateway, tenant, plain))["parsed"] is None
    assert (await _read(gateway, tenant, structured))["parsed"] == {"city": "Wien"}
    decided = await _recorded(gateway, tenant)
    outcome = RunFinished(
        task_id=decided, tenant_id=tenant.id, tier="pro", fence=1, status="completed", output='{"n": 1}',
        structured=True, finished_at=_BEGAN,
    )  # fmt: skip
    await _run(gateway, tenant, decided, "completed", outcome=outcome.encode(), finished_at=_BEGAN, started_at=_BEGAN)
    assert (await _read(gateway, tenant, decided))["parsed"] == {"n": 1}


async def test_an_end_that_is_decided_and_not_recorded_is_shown_whole(gateway: Running) -> None:
    tenant = await gateway.tenant()
    task_id = await _recorded(gateway, tenant)
    outcome = RunFinished(
        task_id=task_id, tenant_id=tenant.id, tier="pro", fence=1, status="failed", model="m", steps=1,
        error=RunError(type="budget_exceeded", message="no"), usage=Usage(output_tokens=3), finished_at=_BEGAN,
        routing=Routing(model="first", reason="rule 1"), fallbacks=(_MOVE,),
    )  # fmt: skip
    await _run(gateway, tenant, task_id, "failed", outcome=outcome.encode(), finished_at=_BEGAN, started_at=_BEGAN)
    task = await _read(gateway, tenant, task_id)
    assert (task["status"], task["error"]) == ("failed", {"type": "budget_exceeded", "message": "no"})
    assert task["usage"]["output_tokens"] == 3
    assert (task["routing"], task["fallbacks"]) == ({"model": "first", "reason": "rule 1"}, [_MOVE.model_dump()])


@pytest.mark.parametrize("address", ["", "/events", "/cancel"])
async def test_another_tenants_task_reads_like_none(gateway: Running, address: str) -> None:
    owner, other = await gateway.tenant(), await gateway.tenant()
    submitted = (await gateway.submit(owner)).json()["id"]
    recorded = await _recorded(gateway, owner)
    method = "POST" if address == "/cancel" else "GET"
    problems = []
    for task_id in (submitted, recorded, uuid4(), "no-id"):
        response = await gateway.client.request(method, f"/v1/tasks/{task_id}{address}", headers=other.headers)
        assert (response.status_code, response.headers["content-type"]) == (404, "application/problem+json")
        problems.append({k: v for k, v in response.json().items() if k != "instance"})
    assert all(problem == problems[0] for problem in problems)
    assert await gateway.database.fetchval("SELECT count(*) FROM runtime.runs WHERE tenant_id = $1", other.id) == 0
    assert (await _read(gateway, owner, recorded))["status"] == "queued"


async def test_pages_go_through_everything_once_newest_first(gateway: Running) -> None:
    tenant = await gateway.tenant()
    made = [await _recorded(gateway, tenant, submitted_at=_BEGAN + timedelta(seconds=n // 2)) for n in range(7)]
    seen: list[str] = []
    address = "/v1/tasks?limit=3"
    while True:
        page = (await gateway.client.get(address, headers=tenant.headers)).json()
        seen += [task["id"] for task in page["items"]]
        if page["next_cursor"] is None:
            break
        # As it is, unescaped.
        address = f"/v1/tasks?limit=3&cursor={page['next_cursor']}"
    assert sorted(seen) == sorted(map(str, made))
    assert len(seen) == 7


async def test_pages_are_filtered_by_the_true_status_and_by_tier(gateway: Running) -> None:
    tenant = await gateway.tenant()
    queued, running = await _recorded(gateway, tenant), await _recorded(gateway, tenant)
    done = await _recorded(gateway, tenant, status="completed", tier="free")
    await _run(gateway, tenant, running, "running")

    async def listed(**parameters: str) -> set[str]:
        page = (await gateway.client.get("/v1/tasks", params=parameters, headers=tenant.headers)).json()
        return {task["id"] for task in page["items"]}

    assert await listed(status="queued") == {str(queued)}
    assert await listed(status="running") == {str(running)}
    assert await listed(status="completed") == await listed(tier="free") == {str(done)}
    for wrong in ({"status": "lost"}, {"limit": "0"}, {"limit": "101"}, {"cursor": "x"}, {"tier": "a\0"}):
        response = await gateway.client.get("/v1/tasks", params=wrong, headers=tenant.headers)
        assert (response.status_code, response.json()["errors"][0]["field"]) == (422, next(iter(wrong)))


async def test_usage_is_told_by_day_and_model_with_exact_totals(gateway: Running) -> None:
    tenant, other = await gateway.tenant(), await gateway.tenant()
    for charge in ("0.0000000001", "0.2"):
        await _charged(gateway, tenant, uuid4(), charge)
    await _charged(gateway, other, uuid4(), "0.7")
    period = {"from": "2026-05-01", "to": "2026-05-01"}
    report = (await gateway.client.get("/v1/usage", params=period, headers=tenant.headers)).json()
    (row,) = report["rows"]
    assert (row["day"], row["model"], row["calls"], row["input_tokens"]) == ("2026-05-01", "m", 2, 20)
    assert row["cost_usd"] == report["totals"]["cost_usd"] == "0.2000000001"
    empty = await gateway.client.get(
        "/v1/usage", params={"from": "2026-04-01", "to": "2026-04-30"}, headers=tenant.headers
    )
    assert empty.json()["rows"] == []
    backwards = await gateway.client.get(
        "/v1/usage", params={"from": "2026-05-02", "to": "2026-05-01"}, headers=tenant.headers
    )
    assert backwards.status_code == 422


async def test_a_task_that_never_ran_is_cancelled_and_gives_its_place_back(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant()
    task = (await gateway.submit(tenant, priority=3)).json()
    assert await state.zcard(outstanding_key(tenant.id, 3)) == 1
    for _ in range(2):
        answer = await gateway.client.post(task["links"]["cancel"], headers=tenant.headers)
        assert (answer.status_code, answer.json()) == (200, {"id": task["id"], "status": "cancelled"})
    assert await state.zcard(outstanding_key(tenant.id, 3)) == 0
    ended = await _read(gateway, tenant, task["id"])
    assert (ended["status"], ended["error"]["type"], ended["cost_usd"]) == ("cancelled", "cancelled", "0")


async def test_the_worker_of_a_running_task_is_rung(gateway: Running) -> None:
    tenant = await gateway.tenant()
    task_id = await _recorded(gateway, tenant)
    await _run(gateway, tenant, task_id, "running")
    async with tapping(gateway.stage, CONTROL) as bells:
        answer = await gateway.client.post(f"/v1/tasks/{task_id}/cancel", headers=tenant.headers)
        assert answer.json()["status"] == "cancelling"
        (bell,) = await bells.messages(str(task_id))
    assert unseal(bell) == CancelRequested(task_id=task_id, tenant_id=tenant.id)


async def test_what_has_ended_stays_as_it_ended(gateway: Running, state: Client) -> None:
    tenant = await gateway.tenant()
    task_id = await _recorded(gateway, tenant, status="completed")
    answer = await gateway.client.post(f"/v1/tasks/{task_id}/cancel", headers=tenant.headers)
    assert answer.json()["status"] == "completed"
    assert await gateway.database.fetchval("SELECT count(*) FROM runtime.runs WHERE task_id = $1", task_id) == 0
    forgotten = (await gateway.submit(tenant)).json()["id"]
    await forget(state, tenant)
    assert (await gateway.client.post(f"/v1/tasks/{forgotten}/cancel", headers=tenant.headers)).status_code == 404


async def test_keys_are_made_and_revoked_and_every_gateway_hears_of_it(gateway: Running) -> None:
    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    new = {"name": "Acme", "plan": "pro"}
    made = await gateway.client.post("/v1/admin/tenants", json=new, headers=admin)
    assert (made.status_code, made.json() | new) == (201, made.json())
    key = await gateway.client.post(f"/v1/admin/tenants/{made.json()['id']}/keys", headers=admin)
    assert key.status_code == 201
    tenant = Tenant(UUID(made.json()["id"]), key.json()["key"])
    assert (await gateway.submit(tenant)).status_code == 202
    key_id = tenant.key.split("_")[1]
    async with tapping(gateway.stage, CONTROL) as bells:
        assert (await gateway.client.delete(f"/v1/admin/keys/{key_id}", headers=admin)).status_code == 204
        await bells.messages(str(tenant.id))
    refused = await gateway.submit(tenant)
    assert (refused.status_code, refused.json()["type"]) == (401, "urn:laneway:problem:unauthenticated")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    for unknown in ("0" * 16, "%00", "x" * 65):
        gone = await gateway.client.delete(f"/v1/admin/keys/{unknown}", headers=admin)
        assert gone.status_code in (404, 422)


async def test_a_users_tier_counts_from_the_next_request_on(gateway: Running) -> None:
    tenant = await gateway.tenant("pro")
    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    assert (await gateway.submit(tenant, user_id="ada")).json()["tier"] == "pro"
    put = await gateway.client.put(f"/v1/admin/tenants/{tenant.id}/users/ada", json={"tier": "free"}, headers=admin)
    assert put.status_code == 200
    assert (await gateway.submit(tenant, user_id="ada")).json()["tier"] == "free"
    assert (await gateway.submit(tenant, user_id="ada", tier="pro")).status_code == 403
    assert (await gateway.submit(tenant, user_id="bob")).json()["tier"] == "pro"


async def test_a_tenants_own_limit_counts_from_the_next_request_on(gateway: Running) -> None:
    tenant = await gateway.tenant(max_outstanding=2)
    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    address = f"/v1/admin/tenants/{tenant.id}/limits"
    for own, accepted in ((1, 1), (3, 2), (None, 0)):
        limits = {"max_outstanding": own, "max_running": None}
        put = await gateway.client.put(address, json=limits, headers=admin)
        assert (put.status_code, {**put.json(), **limits}) == (200, put.json())
        for _ in range(accepted):
            assert (await gateway.submit(tenant)).status_code == 202
        refused = await gateway.submit(tenant)
        assert (refused.status_code, refused.json()["detail"][:26]) == (429, f"{own or 2} tasks may be outstanding")
    for wrong in (0, -1, 2**31, True, "5"):
        put = await gateway.client.put(address, json={"max_outstanding": wrong, "max_running": None}, headers=admin)
        assert (put.status_code, put.json()["errors"][0]["field"]) == (422, "max_outstanding")
    nobody = f"/v1/admin/tenants/{uuid4()}/limits"
    assert (await gateway.client.put(nobody, json=limits, headers=admin)).status_code == 404


async def test_a_tenants_limits_are_shown_beside_its_plans(gateway: Running) -> None:
    tenant, other = await gateway.tenant(max_outstanding=2), await gateway.tenant()
    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    address = f"/v1/admin/tenants/{tenant.id}/limits"
    plan = await gateway.database.fetchval("SELECT plan FROM identity.tenants WHERE tenant_id = $1", tenant.id)
    shown = {"name": plan, "max_outstanding": 2, "max_running": None}
    nothing_set = {"tenant_id": str(tenant.id), "max_outstanding": None, "max_running": None, "plan": shown}
    got = await gateway.client.get(address, headers=admin)
    assert (got.status_code, got.json()) == (200, nothing_set)
    own = {"max_outstanding": 50, "max_running": 3}
    put = await gateway.client.put(address, json=own, headers=admin)
    assert put.json() == nothing_set | own
    assert (await gateway.client.get(address, headers=admin)).json() == put.json(), "its plan is as it was"
    await gateway.database.execute("UPDATE identity.plans SET max_running = 7 WHERE name = $1", plan)
    assert (await gateway.client.get(address, headers=admin)).json()["plan"] == shown | {"max_running": 7}
    untouched = await gateway.client.get(f"/v1/admin/tenants/{other.id}/limits", headers=admin)
    assert (untouched.json()["max_running"], untouched.json()["plan"]["name"]) == (None, "pro")
    for path, headers, status in (
        (f"/v1/admin/tenants/{uuid4()}/limits", admin, 404),
        ("/v1/admin/tenants/x/limits", admin, 422),
        (address, tenant.headers, 401),
    ):
        assert (await gateway.client.get(path, headers=headers)).status_code == status


async def test_administration_needs_its_key_and_things_that_exist(gateway: Running) -> None:
    tenant = await gateway.tenant()
    admin = {"Authorization": f"Bearer {ADMIN_KEY}"}
    for headers in ({}, tenant.headers, {"Authorization": "Bearer x"}):
        for body in (b"{}", b"no JSON"):
            made = await gateway.client.post("/v1/admin/tenants", content=body, headers=headers)
            assert made.status_code == 401, "before anything that was sent is looked at"
    new = {"name": "n", "plan": "gold"}
    response = await gateway.client.post("/v1/admin/tenants", json=new, headers=admin)
    assert (response.status_code, response.json()["errors"][0]["field"]) == (422, "plan")
    assert (await gateway.client.post(f"/v1/admin/tenants/{uuid4()}/keys", headers=admin)).status_code == 404
    users = f"/v1/admin/tenants/{uuid4()}/users/ada"
    assert (await gateway.client.put(users, json={"tier": "free"}, headers=admin)).status_code == 404
    assert (await gateway.client.put(users, json={"tier": "gold"}, headers=admin)).status_code == 422


async def test_every_error_of_the_framework_is_a_problem_too(gateway: Running) -> None:
    for method, path, status in (("GET", "/nowhere", 404), ("DELETE", "/v1/tasks", 405), ("GET", "/v1/tasks", 401)):
        response = await gateway.client.request(method, path)
        assert (response.status_code, response.headers["content-type"]) == (status, "application/problem+json")
        document = response.json()
        assert document.keys() >= {"type", "title", "status", "detail", "instance"}
        assert (document["status"], document["instance"]) == (status, path)


async def test_the_interface_is_documented_with_examples_and_every_problem(gateway: Running) -> None:
    document = (await gateway.client.get("/openapi.json")).json()
    assert "simulated" in document["info"]["description"]
    components = document.get("components", {}).get("schemas", {})
    for name in re.findall(r'"\$ref": "#/components/schemas/([^"]+)"', json.dumps(document)):
        assert name in components, f"{name} is named and not there"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            codes = {code for code in operation["responses"] if code >= "400"}
            assert codes >= {"401", "500", "503"}, f"{method} {path}"
    submit = document["paths"]["/v1/tasks"]["post"]
    assert submit["requestBody"]["content"]["application/json"]["examples"]
    assert {"403", "409", "413", "415", "422", "429"} <= submit["responses"].keys()
    assert (await gateway.client.get("/docs")).status_code == 200


async def test_numbers_for_operators(gateway: Running) -> None:
    tenant = await gateway.tenant()
    await asyncio.gather(*(gateway.submit(tenant) for _ in range(3)))

    async def counted() -> bool:
        text = (await gateway.client.get("/metrics")).text
        return 'laneway_admissions_total{outcome="admitted",tier="pro"} 3.0' in text

    await eventually(counted)


async def _plan(gateway: Running, tenant: Tenant, statement: str, *arguments: object) -> str:
    """How PostgreSQL reads for the gateway, where the tenant has very many tasks that all completed."""
    connection = await asyncpg.connect(gateway.stage.login("gateway"))
    try:
        await connection.execute(f"SET app.tenant_id = '{tenant.id}'")
        lines = await connection.fetch(f"EXPLAIN {statement}", *arguments)
    finally:
        await connection.close()
    return "\n".join(line[0] for line in lines)


async def test_a_status_that_is_rare_is_not_looked_for_among_all_others(gateway: Running) -> None:
    tenant = await gateway.tenant()
    await gateway.database.execute(
        "INSERT INTO history.tasks (task_id, tenant_id, tier, status, submitted_at)"
        " SELECT gen_random_uuid(), $1, 'pro', 'completed', $2::timestamptz + n * interval '1 s'"
        " FROM generate_series(1, 20000) n",
        tenant.id,
        _BEGAN,
    )
    await gateway.database.execute("ANALYZE history.tasks")
    plan = await _plan(gateway, tenant, tasks._PAGE_OF_STATUS, None, None, "failed", None, 21)
    assert "tasks_ended" in plan
    assert re.search(r"tasks_open|tasks_waiting", plan)  # both hold what is open and nothing else
    assert "tasks_of_tenant" not in plan
    assert "Seq Scan on tasks" not in plan


async def test_events_are_looked_for_in_the_months_of_their_task_only(gateway: Running) -> None:
    tenant = await gateway.tenant()
    long_ago = _BEGAN.replace(year=2020)
    state = tasks.State("pro", 5, "completed", "completed", 1, None, long_ago, long_ago)
    plan = await _plan(gateway, tenant, tasks._EVENTS, uuid4(), 0, 0, 500, *state.period)
    assert f"events_{datetime.now(UTC):%Y_%m}" not in plan
    assert "events_default" in plan
