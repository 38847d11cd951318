"""Budgets as a tenant reads them and an operator sets them; and what a plan allows of the catalogue."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from tests.integration.gateway.conftest import ADMIN_KEY, Running, Tenant

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
WHO = {"by": "ada@example.com", "reason": "month-end close"}


async def read(gateway: Running, tenant: Tenant, **asked: str) -> dict[tuple[str, str | None], dict[str, Any]]:
    """The tenant's budgets, by scope and subject."""
    answer = await gateway.client.get("/v1/budgets", params=asked, headers=tenant.headers)
    assert answer.status_code == 200, answer.text
    return {(row["scope"], row["subject"]): row for row in answer.json()["budgets"]}


async def put(gateway: Running, tenant: Tenant, path: str, cap: str, **more: Any) -> httpx2.Response:
    body = {"cap_usd": cap, **WHO, **more}
    return await gateway.client.put(f"/v1/admin/tenants/{tenant.id}/budgets/{path}", json=body, headers=ADMIN)


async def spent(gateway: Running, tenant: Tenant, scope: str, subject: str, held: str, charged: str) -> None:
    await gateway.database.execute(
        "INSERT INTO billing.balances (tenant_id, scope, subject, period, cap, held, charged)"
        " VALUES ($1, $2, $3, CASE $2 WHEN 'tenant_month' THEN date_trunc('month', billing.day_at($1, now()))::date"
        " WHEN 'run' THEN 'epoch' WHEN 'conversation' THEN 'epoch' ELSE billing.day_at($1, now()) END, 100, $4, $5)",
        *(tenant.id, scope, subject, Decimal(held), Decimal(charged)),
    )


async def test_a_tenant_sees_each_budget_with_what_is_spent_and_held_and_left(gateway: Running) -> None:
    tenant = await gateway.tenant("pro")
    await spent(gateway, tenant, "tenant_day", "", "0.5", "1.25")
    shown = await read(gateway, tenant)
    day = shown["tenant_day", None]
    assert {name: day[name] for name in ("cap_usd", "held_usd", "charged_usd", "left_usd", "source")} == {
        "cap_usd": "200", "held_usd": "0.5", "charged_usd": "1.25", "left_usd": "198.25", "source": "plan",
    }  # fmt: skip
    begins, ends = (datetime.fromisoformat(day["period"][name]) for name in ("begins_at", "ends_at"))
    assert (ends - begins).total_seconds() == 86_400
    assert (shown["run", None]["cap_usd"], shown["user_day", None]["cap_usd"]) == ("1", "20")
    assert (shown["run", None]["each"], shown["run", None]["charged_usd"]) == (True, None)
    assert shown["conversation", None]["cap_usd"] is None


async def test_users_are_listed_page_by_page_and_one_can_be_asked_for(gateway: Running) -> None:
    tenant, other = await gateway.tenant(), await gateway.tenant()
    for name in ("anna", "ben", "cleo"):
        await spent(gateway, tenant, "user_day", name, "0", "1")
    await spent(gateway, other, "user_day", "zoe", "0", "1")
    assert (await put(gateway, tenant, "user_day/dora", "3")).status_code == 200
    first = (await gateway.client.get("/v1/budgets?scope=user_day&limit=3", headers=tenant.headers)).json()
    assert ([row["subject"] for row in first["budgets"]], first["next"]) == (["anna", "ben", "cleo"], "cleo")
    rest = await read(gateway, tenant, scope="user_day", after="cleo")
    assert list(rest) == [("user_day", "dora")]
    assert rest["user_day", "dora"]["source"] == "user"
    nobody = await read(gateway, tenant, scope="user_day", subject="nobody")
    assert nobody["user_day", "nobody"]["left_usd"] == "20"


@pytest.mark.parametrize(
    ("path", "scope", "subject", "source"),
    [
        ("run", "run", None, "tenant"),
        ("tenant_month", "tenant_month", None, "tenant"),
        ("user_day/anna%2Fb", "user_day", "anna/b", "user"),
        ("conversation/0198C0DE-0000-7000-8000-0000000000cc", "conversation",
         "0198c0de-0000-7000-8000-0000000000cc", "conversation"),
    ],
)  # fmt: skip
async def test_an_override_is_set_shown_and_removed_and_all_of_it_logged(
    gateway: Running, path: str, scope: str, subject: str | None, source: str
) -> None:
    tenant = await gateway.tenant("pro")
    answer = await put(gateway, tenant, path, "7.50")
    assert answer.status_code == 200, answer.text
    (budget,) = [row for row in answer.json()["budgets"] if (row["scope"], row["subject"]) == (scope, subject)][:1]
    assert (budget["cap_usd"], budget["source"]) == ("7.5", source)
    (override,) = answer.json()["overrides"]
    assert {**override, "set_at": None} == {
        "scope": scope, "subject": subject, "cap_usd": "7.5", "set_at": None, **WHO,
    }  # fmt: skip
    address = f"/v1/admin/tenants/{tenant.id}/budgets/{path}"
    removed = await gateway.client.delete(address, params=WHO, headers=ADMIN)
    assert (removed.status_code, removed.json()["overrides"]) == (200, [])
    again = await gateway.client.delete(address, params=WHO, headers=ADMIN)
    assert again.status_code == 404
    shown = (await gateway.client.get(f"/v1/admin/tenants/{tenant.id}/budgets", headers=ADMIN)).json()
    assert [(one["action"], one["scope"], one["subject"], one["by"]) for one in shown["log"]] == [
        ("removed", scope, subject, WHO["by"]),
        ("set", scope, subject, WHO["by"]),
    ]
    assert shown["log"][1]["new"] == shown["log"][0]["old"] == "7.5"


@pytest.mark.parametrize(
    ("path", "body", "field", "reason"),
    [
        ("run", {"cap_usd": "-1"}, "cap_usd", "greater than or equal to 0"),
        ("run", {"cap_usd": "1e-11"}, "cap_usd", "decimal places"),
        ("run", {"cap_usd": "NaN"}, "cap_usd", "finite"),
        ("run", {"currency": "EUR"}, "currency", "'USD'"),
        ("run", {"by": ""}, "by", "at least 1"),
        ("run", {"why": "x"}, "why", "not permitted"),
        ("year", {}, "scope", "'tenant_month'"),
        ("tenant_day/anna", {}, "subject", "without naming anybody"),
        ("conversation/one", {}, "subject", "a UUID"),
    ],
)
async def test_what_is_wrong_is_told_with_its_field(
    gateway: Running, path: str, body: dict[str, Any], field: str, reason: str
) -> None:
    tenant = await gateway.tenant()
    answer = await put(gateway, tenant, path, **({"cap": "1"} | body))
    assert answer.status_code == 422, answer.text
    first = answer.json()["errors"][0]
    assert first["field"] == field
    assert reason in first["reason"]


async def test_what_does_not_exist_or_makes_no_sense_is_refused(gateway: Running) -> None:
    tenant, nobody = await gateway.tenant(), Tenant(uuid4(), "")
    assert (await put(gateway, nobody, "run", "1")).status_code == 404
    asked = await gateway.client.get("/v1/budgets?subject=anna", headers=tenant.headers)
    assert (asked.status_code, asked.json()["errors"][0]["field"]) == (422, "scope")
    asked = await gateway.client.get("/v1/budgets?scope=tenant_day&subject=anna", headers=tenant.headers)
    assert (asked.status_code, asked.json()["errors"][0]["field"]) == (422, "subject")
    assert (await gateway.client.get("/v1/budgets")).status_code == 401
    zone = f"/v1/admin/tenants/{tenant.id}/time-zone"
    answer = await gateway.client.put(zone, json={"time_zone": "Mars/Base", **WHO}, headers=ADMIN)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "time_zone")


async def test_a_tenants_days_begin_in_its_zone(gateway: Running) -> None:
    tenant = await gateway.tenant()
    address = f"/v1/admin/tenants/{tenant.id}/time-zone"
    answer = await gateway.client.put(address, json={"time_zone": "Asia/Tokyo", **WHO}, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    assert datetime.fromisoformat(answer.json()["day"]["ends_at"]).strftime("%H:%M") == "15:00"
    day = (await read(gateway, tenant))["tenant_day", None]
    assert day["period"] == answer.json()["day"]
    listed = (await gateway.client.get("/v1/budgets", headers=tenant.headers)).json()
    assert listed["time_zone"] == "Asia/Tokyo"
    log = (await gateway.client.get(f"/v1/admin/tenants/{tenant.id}/budgets", headers=ADMIN)).json()["log"]
    assert [(one["action"], one["old"], one["new"]) for one in log] == [("time_zone", "UTC", "Asia/Tokyo")]


async def test_who_would_use_up_its_month_is_listed(gateway: Running) -> None:
    hot, cool = await gateway.tenant("pro"), await gateway.tenant("pro")
    for tenant, charged in ((hot, "1999.9"), (cool, "0.01")):
        await spent(gateway, tenant, "tenant_month", "", "0", charged)
        await spent(gateway, tenant, "tenant_day", "", "0", charged)
    answer = await gateway.client.get("/v1/admin/burn-rates", headers=ADMIN)
    assert answer.status_code == 200, answer.text
    listed = {row["tenant_id"]: row for row in answer.json()["tenants"]}
    assert str(cool.id) not in listed
    assert (listed[str(hot.id)]["cap_usd"], listed[str(hot.id)]["charged_usd"]) == ("2000", "1999.9")


# ---- what a plan allows


async def limited(gateway: Running, models: list[str] | None, agents: list[str] | None) -> Tenant:
    """A tenant whose plan allows these."""
    tenant = await gateway.tenant("pro", max_outstanding=1000)
    await gateway.database.execute(
        "UPDATE identity.plans SET allowed_models = $2, allowed_agents = $3"
        " WHERE name = (SELECT plan FROM identity.tenants WHERE tenant_id = $1)",
        *(tenant.id, models, agents),
    )
    return tenant


@pytest.mark.parametrize(
    ("asked", "field", "allowed"),
    [
        ({"model": "gpt-5.4"}, "model", ["claude-haiku-4-5"]),
        ({"agent": "writer"}, "agent", ["analyst", "default"]),
        ({"agent": "analyst"}, "model", ["claude-haiku-4-5"]),
    ],
)
async def test_what_a_plan_does_not_have_is_refused_with_what_it_has(
    gateway: Running, asked: dict[str, str], field: str, allowed: list[str]
) -> None:
    tenant = await limited(gateway, ["claude-haiku-4-5"], ["default", "analyst"])
    answer = await gateway.submit(tenant, **asked)
    assert (answer.status_code, answer.json()["type"]) == (403, "urn:laneway:problem:forbidden")
    assert answer.json()["allowed"] == allowed
    assert answer.json()["errors"][0]["field"] == field
    for fields in ({}, {"model": "auto"}, {"agent": "analyst", "model": "claude-haiku-4-5"}):
        assert (await gateway.submit(tenant, **fields)).status_code == 202


async def test_batches_and_schedules_are_held_to_the_plan_too(gateway: Running) -> None:
    tenant = await limited(gateway, ["claude-haiku-4-5"], None)
    task = {"input": "x", "model": "gpt-5.4"}
    batch = await gateway.client.post("/v1/batches", json={"tasks": [{"input": "y"}, task]}, headers=tenant.headers)
    assert batch.status_code == 422
    assert [(one["index"], one["field"]) for one in batch.json()["errors"]] == [(1, "tasks.1.model")]
    body = {"cron": "0 9 * * *", "task": task}
    schedule = await gateway.client.post("/v1/schedules", json=body, headers=tenant.headers)
    assert schedule.status_code == 422
    assert "it allows claude-haiku-4-5" in schedule.json()["errors"][0]["reason"]


async def test_a_plan_without_a_list_allows_the_whole_catalogue(gateway: Running) -> None:
    tenant = await limited(gateway, None, None)
    for fields in ({"model": "gpt-5.4"}, {"agent": "writer"}, {"model": "auto"}):
        assert (await gateway.submit(tenant, **fields)).status_code == 202
