"""Usage as tenants and operators ask for it: grouped, exact, and as files that are streamed."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from io import StringIO

import pytest

from gateway.usage import CHUNK
from tests.integration.gateway.conftest import ADMIN_KEY, Running, Tenant

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
MAY = {"from": "2026-05-01", "to": "2026-05-02"}
# Call i is on the first or the second day, of a user, an agent, a model and a team by turns, and costs i units.
_FILL = """
INSERT INTO billing.usage (attempt_id, tenant_id, user_id, task_id, agent, provider, model, step, call, input_tokens,
  cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens, reasoning_tokens, vector, estimated,
  price_id, cost, charge, variance, metadata, recorded_at)
SELECT gen_random_uuid(), $1, CASE i % 3 WHEN 0 THEN NULL ELSE 'user-' || i % 3 END, gen_random_uuid(),
       'agent-' || i % 2, 'anthropic', 'model-' || i % 4, 1, 1, 10, 1, 0, 0, 5, 2, '{}', i % 7 = 0,
       (SELECT min(price_id) FROM billing.prices), i * 0.0000000001, i * 0.0000000001, 0,
       CASE i % 5 WHEN 0 THEN '{}' ELSE jsonb_build_object('team', 't' || i % 5) END,
       timestamptz '2026-05-01 12:00Z' + (i % 2) * interval '1 day'
FROM generate_series(1, $2::int) AS i
"""


async def _used(gateway: Running, calls: int) -> Tenant:
    tenant = await gateway.tenant()
    await gateway.database.execute(_FILL, tenant.id, calls)
    return tenant


@pytest.mark.parametrize(
    ("group_by", "names", "rows"),
    [
        ("day", {"day"}, 2),
        ("model", {"provider", "model"}, 4),
        ("user", {"user_id"}, 3),
        ("agent,user", {"agent", "user_id"}, 6),
        ("label", {"label"}, 5),
        ("day,model,agent,user,label", {"day", "provider", "model", "agent", "user_id", "label"}, 60),
    ],
)
async def test_usage_is_grouped_as_asked_and_its_sums_stay(
    gateway: Running, group_by: str, names: set[str], rows: int
) -> None:
    tenant = await _used(gateway, 60)
    await _used(gateway, 5)
    asked = MAY | {"group_by": group_by} | ({"label": "team"} if "label" in names else {})
    report = (await gateway.client.get("/v1/usage", params=asked, headers=tenant.headers)).json()
    address = f"/v1/admin/tenants/{tenant.id}/usage"
    assert (await gateway.client.get(address, params=asked, headers=ADMIN)).json() == report
    assert len(report["rows"]) == rows
    assert {name for row in report["rows"] for name in row} - set(report["totals"]) == names
    assert report["totals"] | {"calls": 60, "input_tokens": 600, "cost_usd": "0.000000183"} == report["totals"]
    assert sum(Decimal(row["cost_usd"]) for row in report["rows"]) == Decimal("0.000000183")
    assert sum(row["calls"] for row in report["rows"]) == 60


async def test_a_label_is_shown_by_its_values_and_what_has_none(gateway: Running) -> None:
    tenant = await _used(gateway, 10)
    asked = MAY | {"group_by": "label", "label": "team"}
    report = (await gateway.client.get("/v1/usage", params=asked, headers=tenant.headers)).json()
    assert [(row["label"], row["calls"]) for row in report["rows"]] == [
        ("t1", 2), ("t2", 2), ("t3", 2), ("t4", 2), (None, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"group_by": "colour"}, "group_by"),
        ({"group_by": "label"}, "label"),
        ({"label": "team"}, "label"),
        ({"from": "2026-05-02", "to": "2026-05-01"}, "from"),
        ({"from": "yesterday"}, "from"),
        ({"from": "9999-12-01", "to": "9999-12-31"}, "to"),
        ({"group_by": "label", "label": "a\x00b"}, "label"),
    ],
)
async def test_what_cannot_be_asked_is_said(gateway: Running, asked: dict[str, str], field: str) -> None:
    tenant = await gateway.tenant()
    answer = await gateway.client.get("/v1/usage", params=asked, headers=tenant.headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


async def test_groups_beyond_an_answer_are_refused_and_exported(gateway: Running) -> None:
    tenant = await gateway.tenant()
    await gateway.database.execute(_FILL.replace("'user-' || i % 3", "'user-' || i"), tenant.id, 16_000)
    answer = await gateway.client.get("/v1/usage", params=MAY | {"group_by": "user"}, headers=tenant.headers)
    assert answer.status_code == 422
    assert "more than 10,000 rows" in answer.json()["detail"]


async def test_every_record_is_exported_once_in_order_chunk_by_chunk(gateway: Running) -> None:
    count = 2 * CHUNK + 7
    tenant = await _used(gateway, count)
    answer = await gateway.client.get("/v1/usage/records.jsonl", params=MAY, headers=tenant.headers)
    assert answer.headers["content-disposition"].endswith('"usage-2026-05-01-2026-05-02.jsonl"')
    records = [json.loads(line) for line in answer.text.splitlines()]
    assert len({record["attempt_id"] for record in records}) == len(records) == count
    assert [record["recorded_at"] for record in records] == sorted(record["recorded_at"] for record in records)
    address = f"/v1/admin/tenants/{tenant.id}/usage/records.csv"
    table = (await gateway.client.get(address, params=MAY, headers=ADMIN)).text
    rows = list(csv.DictReader(StringIO(table)))
    assert [row["attempt_id"] for row in rows] == [record["attempt_id"] for record in records]
    assert [row["cost_usd"] for row in rows] == [record["cost_usd"] for record in records]
    total = sum(Decimal(record["cost_usd"]) for record in records)
    assert total == count * (count + 1) // 2 * Decimal("1e-10")
    one_day = {"from": "2026-05-02", "to": "2026-05-02"}
    second = await gateway.client.get("/v1/usage/records.jsonl", params=one_day, headers=tenant.headers)
    assert len(second.text.splitlines()) == (count + 1) // 2


async def test_a_reader_that_stops_keeps_no_connection(gateway: Running) -> None:
    tenant = await _used(gateway, 3 * CHUNK)
    for _ in range(20):  # as many as the pool has, and more
        async with gateway.client.stream(
            "GET", "/v1/usage/records.jsonl", params=MAY, headers=tenant.headers
        ) as response:
            assert response.status_code == 200
            await anext(response.aiter_bytes())
    assert (await gateway.client.get("/v1/usage", params=MAY, headers=tenant.headers)).status_code == 200


async def test_text_that_tenants_choose_is_no_formula(gateway: Running) -> None:
    tenant = await gateway.tenant()
    await gateway.database.execute(_FILL.replace("'user-' || i % 3", "'=1+1'"), tenant.id, 1)
    table = (await gateway.client.get("/v1/usage/records.csv", params=MAY, headers=tenant.headers)).text
    assert next(csv.DictReader(StringIO(table)))["user_id"] == "'=1+1"


async def test_nobody_reads_another_tenants_usage(gateway: Running) -> None:
    used, other = await _used(gateway, 3), await gateway.tenant()
    assert (await gateway.client.get("/v1/usage/records.jsonl", params=MAY, headers=other.headers)).text == ""
    for suffix in ("", "/records.csv", "/records.jsonl"):
        address = f"/v1/admin/tenants/{used.id}/usage{suffix}"
        assert (await gateway.client.get(address, headers=other.headers)).status_code == 401
        missing = address.replace(str(used.id), "01890000-0000-7000-8000-000000000000")
        assert (await gateway.client.get(missing, headers=ADMIN)).status_code == 404
