"""The proof as operators ask for it: page by page, month by month, and never without the key."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import uuid4

import pytest

from tests.integration.gateway.conftest import ADMIN_KEY, Running
from tests.integration.gateway.test_invoices import _issued, _posted

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


async def test_a_month_is_shown_with_what_does_not_agree(gateway: Running) -> None:
    tenant, month = await gateway.tenant(), f"{datetime.now(UTC):%Y-%m}"
    await _posted(gateway, tenant, "0.25", user="anna", month=month)
    await _issued(gateway, tenant, month)
    page = (await gateway.client.get("/v1/admin/proof", params={"tenant_id": str(tenant.id)}, headers=ADMIN)).json()
    (item,) = page["items"]
    assert page["agrees"] is item["agrees"] is False
    assert (item["month"], item["posted"]["charge_usd"], item["posted"]["owed_usd"]) == (month, "0.25", "0.25")
    assert item["invoices"] == {"issued": 1, "total_usd": "20"}
    found = {one["what"]: (one["expected"], one["found"]) for one in item["differences"]}
    # The row that was put in by hand has no balance, and its cost is not posted: the proof says so of each.
    assert found["invoices of what is posted: issue the credit note"] == ("0.25", "20")
    assert found["balance of charges"] == ("0.25", "0")
    assert found["cost of a call"] == ("0.25", "0")


async def test_pages_go_through_all_books_once(gateway: Running) -> None:
    tenants = {str((await gateway.tenant()).id) for _ in range(3)}
    old = await gateway.tenant()
    await gateway.database.execute("UPDATE identity.tenants SET created_at = '2026-08-15' WHERE tenant_id = $1", old.id)
    seen: list[tuple[str, str]] = []
    after: dict[str, str] = {}
    while True:
        page = (await gateway.client.get("/v1/admin/proof", params={"limit": "2"} | after, headers=ADMIN)).json()
        seen += [(item["tenant_id"], item["month"]) for item in page["items"]]
        if page["next"] is None:
            break
        after = {"after": page["next"]}
    assert len(set(seen)) == len(seen)
    assert tenants <= {tenant for tenant, _ in seen}
    assert [month for tenant, month in seen if tenant == str(old.id)][:2] == ["2026-08", "2026-09"]
    one = await gateway.client.get(
        "/v1/admin/proof", params={"tenant_id": str(old.id), "month": "2026-09"}, headers=ADMIN
    )
    assert [(item["tenant_id"], item["month"]) for item in one.json()["items"]] == [(str(old.id), "2026-09")]


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"month": "2026-13"}, "month"),
        ({"after": "here"}, "after"),
        ({"limit": "0"}, "limit"),
        ({"tenant_id": "x"}, "tenant_id"),
    ],
)
async def test_what_cannot_be_asked_is_said(gateway: Running, asked: dict[str, str], field: str) -> None:
    answer = await gateway.client.get("/v1/admin/proof", params=asked, headers=ADMIN)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


async def test_only_operators_see_it(gateway: Running) -> None:
    tenant = await gateway.tenant()
    assert (await gateway.client.get("/v1/admin/proof", headers=tenant.headers)).status_code == 401


async def test_nothing_is_proved_of_a_tenant_that_is_not_there(gateway: Running) -> None:
    unknown = await gateway.client.get("/v1/admin/proof", params={"tenant_id": str(uuid4())}, headers=ADMIN)
    assert (unknown.status_code, unknown.json()["detail"]) == (404, "There is no such tenant.")


async def test_the_month_that_has_begun_in_a_tenants_zone_is_proved_too(gateway: Running) -> None:
    tenant = await gateway.tenant()
    await gateway.database.execute(  # a zone that is ahead of UTC, on the last day of UTC's month
        "UPDATE identity.tenants SET zone_day = date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month'"
        " WHERE tenant_id = $1",
        tenant.id,
    )
    page = (await gateway.client.get("/v1/admin/proof", params={"tenant_id": str(tenant.id)}, headers=ADMIN)).json()
    begun = await gateway.database.fetchval("SELECT to_char(billing.day_at($1, now()), 'YYYY-MM')", tenant.id)
    assert page["items"][-1]["month"] == begun > page["items"][0]["month"]
