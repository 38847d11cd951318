"""Holds that went in doubt are listed for operators, with how they were resolved, and for nobody else."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.integration.gateway.conftest import ADMIN_KEY, Running

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
# With what each has become: state, policy, charged.
_BECAME = (
    ("in_doubt", None, None),
    ("settled", None, "0.25"),
    ("settled", "received", "0.125"),
    ("voided", "platform_pays", None),
)


async def _held(gateway: Running, tenant: UUID, state: str, policy: str | None, charged: str | None) -> str:
    attempt = uuid4()
    await gateway.database.execute(
        "INSERT INTO billing.holds (attempt_id, tenant_id, task_id, fence, step, call, provider, model, price_id,"
        " amount, day, state, policy, charged, doubted_at, resolved_at)"
        " SELECT $1, $2, $3, 1, 1, 1, 'anthropic', 'm', (SELECT min(price_id) FROM billing.prices), 0.5, current_date,"
        " $4, $5, $6::text::numeric, clock_timestamp(), CASE $4 WHEN 'in_doubt' THEN NULL ELSE clock_timestamp() END",
        *(attempt, tenant, uuid4(), state, policy, charged),
    )
    return str(attempt)


async def _asked(gateway: Running, **asked: Any) -> dict[str, Any]:
    answer = await gateway.client.get("/v1/admin/doubts", params=asked, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    return document


async def test_each_says_how_it_was_resolved_the_newest_first(gateway: Running) -> None:
    tenant = (await gateway.tenant()).id
    attempts = [await _held(gateway, tenant, *became) for became in _BECAME]
    items = (await _asked(gateway, tenant_id=str(tenant)))["items"]
    assert [item["attempt_id"] for item in items] == attempts[::-1]
    assert [(item["resolution"], item["policy"], item["charged_usd"]) for item in items] == [
        ("voided", "platform_pays", None),
        ("settled", "received", "0.125"),
        ("settled", "own_record", "0.25"),
        (None, None, None),
    ]
    assert {(item["tenant_id"], item["amount_usd"]) for item in items} == {(str(tenant), "0.5")}
    of_state = {
        state: [one["attempt_id"] for one in (await _asked(gateway, tenant_id=str(tenant), state=state))["items"]]
        for state in ("open", "resolved")
    }
    assert of_state == {"open": attempts[:1], "resolved": attempts[:0:-1]}


async def test_pages_go_through_all_of_them_once(gateway: Running) -> None:
    tenants = [(await gateway.tenant()).id for _ in range(2)]
    made = {await _held(gateway, tenant, "in_doubt", None, None) for tenant in tenants for _ in range(2)}
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = await _asked(gateway, limit=3, **after)
        seen += [item["attempt_id"] for item in page["items"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert len(set(seen)) == len(seen)
    assert made <= set(seen)


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"state": "lost"}, "state"),
        ({"after": "here"}, "after"),
        ({"after": f"9{'9' * 40}.{uuid4()}"}, "after"),
        ({"limit": "0"}, "limit"),
        ({"tenant_id": "x"}, "tenant_id"),
    ],
)
async def test_what_cannot_be_asked_is_said(gateway: Running, asked: dict[str, str], field: str) -> None:
    answer = await gateway.client.get("/v1/admin/doubts", params=asked, headers=ADMIN)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


async def test_only_operators_see_them(gateway: Running) -> None:
    tenant = await gateway.tenant()
    assert (await gateway.client.get("/v1/admin/doubts", headers=tenant.headers)).status_code == 401
