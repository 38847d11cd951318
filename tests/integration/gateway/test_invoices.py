"""Invoices as a tenant and an operator read them: drafts that follow the postings, and documents that stay."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from decimal import Decimal
from io import StringIO
from uuid import uuid4

import pytest

from gateway import invoice_pdf
from tests.integration.gateway.conftest import ADMIN_KEY, Running, Tenant

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


async def _posted(gateway: Running, tenant: Tenant, amount: str, *, user: str | None, month: str) -> None:
    """A call that was settled in that month."""
    attempt, charge = uuid4(), Decimal(amount)
    price = await gateway.database.fetchval("SELECT min(price_id) FROM billing.prices")
    await gateway.database.execute(
        "INSERT INTO billing.holds (attempt_id, tenant_id, user_id, task_id, fence, step, call, provider, model,"
        " price_id, amount, charged, state, day)"
        " VALUES ($1, $2, $3, $1, 1, 1, 1, 'anthropic', 'm', $4, 9, $5, 'settled', $6)",
        *(attempt, tenant.id, user, price, charge, datetime.fromisoformat(f"{month}-01").date()),
    )
    await gateway.database.execute(
        "INSERT INTO billing.usage (attempt_id, tenant_id, user_id, task_id, agent, provider, model, step, call,"
        " input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,"
        " reasoning_tokens, vector, estimated, price_id, cost, charge, variance, metadata, recorded_at)"
        " VALUES ($1, $2, $3, $1, 'default', 'anthropic', 'm', 1, 1, 10, 2, 0, 0, 5, 0, '{}', false, $4, $5, $5, 0,"
        " '{}', now())",
        *(attempt, tenant.id, user, price, charge),
    )
    await gateway.database.execute(
        "INSERT INTO billing.ledger (entry_id, kind, account, tenant_id, month, amount, attempt_id, hold_id, price_id)"
        " VALUES ($1, 'usage', 'receivable', $2, $3, $4, $1, $1, $5),"
        " ($1, 'usage', 'revenue', $2, $3, -$4, $1, $1, $5)",
        *(attempt, tenant.id, datetime.fromisoformat(f"{month}-01").date(), charge, price),
    )


async def _terms(gateway: Running, tenant: Tenant, *, since: str) -> None:
    plan = f"plan-{uuid4()}"
    await gateway.database.execute(
        "INSERT INTO identity.plans (name, tier, requests_per_minute, max_outstanding, run_cap_usd, user_day_cap_usd,"
        " tenant_day_cap_usd, tenant_month_cap_usd, free_allowance_usd, monthly_fee_usd)"
        " VALUES ($1, 'pro', 100, 100, 1, 1, 1, 1, 0.5, 20)",
        plan,
    )
    await gateway.database.execute(
        "UPDATE identity.tenants SET plan = $2, created_at = $3 WHERE tenant_id = $1",
        *(tenant.id, plan, datetime.fromisoformat(f"{since}-01").replace(tzinfo=UTC)),
    )
    await gateway.database.execute(  # as if it had had no other one before
        "INSERT INTO identity.tenant_plans (tenant_id, plan, day, set_by, reason) VALUES ($1, $2, '-infinity', '', '')",
        *(tenant.id, plan),
    )


async def _issued(gateway: Running, tenant: Tenant, month: str) -> None:
    await gateway.database.execute(
        "WITH i AS (INSERT INTO billing.invoices (tenant_id, month, number, plan, total, issued_by)"
        " VALUES ($1, $2, 0, 'pro', 20, 'ada') RETURNING invoice_id)"
        " INSERT INTO billing.invoice_lines"
        " SELECT invoice_id, 1, $1, 'fee', NULL, NULL, NULL, NULL, 0, 0, 0, 20 FROM i",
        *(tenant.id, datetime.fromisoformat(f"{month}-01").date()),
    )


async def test_a_draft_is_what_is_posted_with_what_the_plan_takes_and_gives(gateway: Running) -> None:
    tenant, other = await gateway.tenant(), await gateway.tenant()
    await _terms(gateway, tenant, since="2026-02")
    for amount, user in (("0.2000000001", "anna"), ("0.1", "anna"), ("0.4", None)):
        await _posted(gateway, tenant, amount, user=user, month="2026-03")
    await _posted(gateway, other, "7", user="carl", month="2026-03")
    draft = (await gateway.client.get("/v1/invoices/2026-03", headers=tenant.headers)).json()
    assert (draft["state"], draft["total_usd"]) == ("draft", "20.2000000001")
    (document,) = draft["documents"]
    lines = [(line["kind"], line["user_id"], line["calls"], line["amount_usd"]) for line in document["lines"]]
    assert lines == [
        ("usage", "anna", 2, "0.3000000001"),
        ("usage", None, 1, "0.4"),
        ("fee", None, 0, "20"),
        ("allowance", None, 0, "-0.5"),
    ]
    assert (document["lines"][0]["input_tokens"], document["lines"][0]["output_tokens"]) == (24, 10)
    assert [(line["days"], line["of_days"]) for line in document["lines"]] == [(None, None)] * 2 + [
        (31, 31),
        (None, None),
    ]
    seen_by_operator = await gateway.client.get(f"/v1/admin/tenants/{tenant.id}/invoices/2026-03", headers=ADMIN)
    assert seen_by_operator.json() == draft


async def test_what_was_issued_is_final_and_months_without_are_drafts(gateway: Running) -> None:
    tenant = await gateway.tenant()
    await _terms(gateway, tenant, since="2026-02")
    await _issued(gateway, tenant, "2026-02")
    await _posted(gateway, tenant, "5", user=None, month="2026-02")  # after the invoice, which does not change
    listed = (await gateway.client.get("/v1/invoices", headers=tenant.headers)).json()["invoices"]
    assert listed[0]["month"] == f"{datetime.now(UTC):%Y-%m}"
    assert {one["state"] for one in listed[:-1]} == {"draft"}
    assert (listed[-1]["month"], listed[-1]["state"], listed[-1]["total_usd"]) == ("2026-02", "final", "20")
    month = (await gateway.client.get("/v1/invoices/2026-02", headers=tenant.headers)).json()
    assert (month["state"], month["total_usd"], len(month["documents"])) == ("final", "20", 1)


async def test_a_months_lines_as_csv_sum_to_its_total_and_are_no_formulas(gateway: Running) -> None:
    tenant = await gateway.tenant()
    await _terms(gateway, tenant, since="2026-02")
    for user in ('=HYPERLINK("http://x")', "a,b\n", None):
        await _posted(gateway, tenant, "0.3", user=user, month="2026-03")
    response = await gateway.client.get("/v1/invoices/2026-03/lines.csv", headers=tenant.headers)
    assert response.headers["content-type"].startswith("text/csv")
    assert response.headers["content-disposition"] == 'attachment; filename="invoice-2026-03.csv"'
    rows = list(csv.DictReader(StringIO(response.text, newline="")))
    assert [row["user_id"] for row in rows] == ['\'=HYPERLINK("http://x")', "a,b\n", "", "", ""]
    assert {row["state"] for row in rows} == {"draft"}
    assert sum(Decimal(row["amount_usd"]) for row in rows) == Decimal("20.4")


@pytest.mark.parametrize(
    ("month", "reason"),
    [("2026-13", "must be a month"), ("2999-01", "has not begun"), ("2026-1", "String should match")],
)
async def test_a_month_that_is_none_is_refused(gateway: Running, month: str, reason: str) -> None:
    tenant = await gateway.tenant()
    response = await gateway.client.get(f"/v1/invoices/{month}", headers=tenant.headers)
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["field"] == "month"
    assert reason in error["reason"]


async def test_only_who_may_reads_invoices(gateway: Running) -> None:
    tenant = await gateway.tenant()
    for address in ("/v1/invoices", "/v1/invoices/2026-03", f"/v1/admin/tenants/{tenant.id}/invoices"):
        assert (await gateway.client.get(address)).status_code == 401
    assert (
        await gateway.client.get(f"/v1/admin/tenants/{tenant.id}/invoices", headers=tenant.headers)
    ).status_code == 401
    for address in (f"/v1/admin/tenants/{uuid4()}/invoices", f"/v1/admin/tenants/{uuid4()}/invoices/2026-03"):
        assert (await gateway.client.get(address, headers=ADMIN)).status_code == 404


async def test_charges_by_label_sum_to_the_usage_lines(gateway: Running) -> None:
    tenant = await gateway.tenant()
    await _terms(gateway, tenant, since="2026-02")
    for amount in ("0.2000000001", "0.1", "0.4"):
        await _posted(gateway, tenant, amount, user=None, month="2026-03")
    await gateway.database.execute(
        'UPDATE billing.usage SET metadata = \'{"team": "red"}\' WHERE tenant_id = $1 AND charge < 0.3', tenant.id
    )
    address = "/v1/invoices/2026-03/labels/team"
    found = (await gateway.client.get(address, headers=tenant.headers)).json()
    assert found["lines"] == [
        {"value": "red", "calls": 2, "amount_usd": "0.3000000001"},
        {"value": None, "calls": 1, "amount_usd": "0.4"},
    ]
    draft = (await gateway.client.get("/v1/invoices/2026-03", headers=tenant.headers)).json()["documents"][0]
    usage = [Decimal(line["amount_usd"]) for line in draft["lines"] if line["kind"] == "usage"]
    assert Decimal(found["total_usd"]) == sum(usage)
    operators = address.replace("/v1", f"/v1/admin/tenants/{tenant.id}")
    assert (await gateway.client.get(operators, headers=ADMIN)).json() == found


async def test_a_month_is_a_pdf_of_all_its_documents(gateway: Running) -> None:
    tenant = await gateway.tenant()
    await _terms(gateway, tenant, since="2026-02")
    for number in range(90):
        await _posted(gateway, tenant, f"0.000000{number + 1:04}", user=f"user-{number}", month="2026-03")
    await _posted(gateway, tenant, "0.1", user="\u7530\u4e2d", month="2026-03")
    address = "/v1/invoices/2026-03/invoice.pdf"
    answer = await gateway.client.get(address, headers=tenant.headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/pdf")
    assert answer.headers["content-disposition"] == 'attachment; filename="invoice-2026-03.pdf"'
    assert answer.content.startswith(b"%PDF-")
    assert answer.content.count(b"/Type /Page\n") >= 3
    operators = address.replace("/v1", f"/v1/admin/tenants/{tenant.id}")
    assert (await gateway.client.get(operators, headers=ADMIN)).content.startswith(b"%PDF-")


async def test_a_month_of_too_many_lines_is_no_pdf_and_says_what_to_take(
    gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(invoice_pdf, "MOST_LINES", 3)
    tenant = await gateway.tenant()
    for number in range(4):
        await _posted(gateway, tenant, "0.1", user=f"user-{number}", month="2026-03")
    for address, headers in (("/v1", tenant.headers), (f"/v1/admin/tenants/{tenant.id}", ADMIN)):
        refused = await gateway.client.get(f"{address}/invoices/2026-03/invoice.pdf", headers=headers)
        assert refused.status_code == 422
        (error,) = refused.json()["errors"]
        assert error["field"] == "month"
        assert "take lines.csv" in error["reason"]
        table = await gateway.client.get(f"{address}/invoices/2026-03/lines.csv", headers=headers)
        assert len(table.text.splitlines()) == 5
