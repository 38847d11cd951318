"""Operators give tenants other plans; which one it was from when on is kept, with who and why."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import pytest

from tests.integration.gateway.conftest import ADMIN_KEY, Running

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
NEW = {"plan": "enterprise", "by": "ada@example.com", "reason": "contract 2026-17"}


async def test_a_tenant_has_another_plan_at_once_and_its_history_says_since_when(gateway: Running) -> None:
    tenant = await gateway.tenant("free")
    assert (await gateway.submit(tenant)).json()["tier"] == "free"
    address = f"/v1/admin/tenants/{tenant.id}/plan"
    answer = await gateway.client.put(address, json=NEW, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    document = answer.json()
    assert (document["tenant_id"], document["plan"]) == (str(tenant.id), "enterprise")
    now, first = document["history"]
    assert (now["plan"], now["by"], now["reason"]) == ("enterprise", NEW["by"], NEW["reason"])
    assert first["plan"] == "free"
    assert first["first_day"] == now["first_day"] == f"{datetime.fromisoformat(now['since']).astimezone(UTC):%Y-%m-%d}"
    assert (await gateway.submit(tenant)).json()["tier"] == "enterprise"
    again = await gateway.client.put(address, json=NEW, headers=ADMIN)  # changes nothing, and is no entry
    assert again.json() == document == (await gateway.client.get(address, headers=ADMIN)).json()


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"plan": "gold"}, "plan"), ({"by": ""}, "by"), ({"reason": ""}, "reason"), ({"from": "2026-01-01"}, "from")],
)
async def test_what_cannot_be_set_is_said(gateway: Running, changes: dict[str, Any], field: str) -> None:
    tenant = await gateway.tenant("free")
    address = f"/v1/admin/tenants/{tenant.id}/plan"
    answer = await gateway.client.put(address, json=NEW | changes, headers=ADMIN)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
    shown = (await gateway.client.get(address, headers=ADMIN)).json()
    assert (shown["plan"], len(shown["history"])) == ("free", 1)


async def test_only_operators_and_of_tenants_that_are_there(gateway: Running) -> None:
    tenant = await gateway.tenant()
    mine, nobodys = (f"/v1/admin/tenants/{one}/plan" for one in (tenant.id, uuid4()))
    assert (await gateway.client.put(mine, json=NEW, headers=tenant.headers)).status_code == 401
    assert (await gateway.client.get(mine, headers=tenant.headers)).status_code == 401
    assert (await gateway.client.put(nobodys, json=NEW, headers=ADMIN)).status_code == 404
    assert (await gateway.client.get(nobodys, headers=ADMIN)).status_code == 404
