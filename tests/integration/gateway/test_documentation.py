"""`/openapi.json` says what is really answered: every route is asked, and each answer is held against the document."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from common import streams
from common.admission import rate_key
from common.contracts import RunFinished
from common.contracts.base import now
from common.contracts.usage import Usage
from common.messaging.topology import lane
from common.redis import Client
from gateway import (
    approval_documents,
    batch_documents,
    budget_documents,
    conversation_documents,
    documents,
    doubt_documents,
    invoice_documents,
    mcp_documents,
    pause_documents,
    plan_documents,
    proof_documents,
    schedule_documents,
    upload_documents,
)
from tests.integration.gateway.asking import waiting
from tests.integration.gateway.batching import full, questions, submit
from tests.integration.gateway.conftest import ADMIN_KEY, Running, Tenant
from tests.stage import Stage, eventually, pipelined

_ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
_PROBLEM = "application/problem+json"
_DOCUMENTS = (
    documents,
    approval_documents,
    batch_documents,
    schedule_documents,
    conversation_documents,
    invoice_documents,
    pause_documents,
    upload_documents,
    mcp_documents,
    proof_documents,
    budget_documents,
    doubt_documents,
    plan_documents,
)


class _Document:
    """The description, and which of its answers were seen."""

    def __init__(self, description: dict[str, Any]) -> None:
        self.paths = description["paths"]
        self.schemas = description["components"]["schemas"]
        self.seen: set[tuple[str, str, str]] = set()

    def check(self, route: str, response: httpx2.Response) -> httpx2.Response:
        """Hold an answer against what is said of its route."""
        method, status = response.request.method.lower(), str(response.status_code)
        described = self.paths[route][method]["responses"][status]
        self.seen.add((route, method, status))
        for name in described.get("headers", {}):
            assert name in response.headers, f"{method} {route} {status} lacks {name}"
        if status == "204":
            assert not response.content
            return response
        (media,) = described["content"]
        assert response.headers["content-type"].partition(";")[0] == media
        schema = described["content"][media]["schema"]
        if media == _PROBLEM:
            documents.ProblemDocument.model_validate_json(response.content, strict=False)
        elif media == "application/json":
            name = schema["$ref"].rpartition("/")[2]
            (model,) = (getattr(module, name) for module in _DOCUMENTS if hasattr(module, name))
            model.model_validate_json(response.content)
        return response

    def successes(self) -> set[tuple[str, str, str]]:
        """Every answer below 300 that is described."""
        return {
            (route, method, status)
            for route, methods in self.paths.items()
            for method, operation in methods.items()
            for status in operation["responses"]
            if status.startswith("2")
        }


@pytest.fixture
async def document(gateway: Running) -> _Document:
    return _Document((await gateway.client.get("/openapi.json")).json())


async def test_every_success_is_as_described(
    gateway: Running, document: _Document, state: Client, stage: Stage
) -> None:
    tenant, client, own = await gateway.tenant(), gateway.client, "/v1/tasks/{task_id}"
    key = f"order-{uuid4()}"
    task = document.check("/v1/tasks", await gateway.submit(tenant, key=key)).json()
    document.check("/v1/tasks", await gateway.submit(tenant, key=key))
    document.check(own, await client.get(task["links"]["self"], headers=tenant.headers))
    cancelled = await client.post(task["links"]["cancel"], headers=tenant.headers)
    document.check(f"{own}/cancel", cancelled)
    document.check(own, await client.get(task["links"]["self"], headers=tenant.headers))
    document.check(f"{own}/events", await client.get(task["links"]["events"], headers=tenant.headers))
    await _finished(gateway, tenant.id, UUID(task["id"]))
    for path, route in (("/v1/tasks", "/v1/tasks"), (task["links"]["self"], own)):
        document.check(route, await client.get(path, headers=tenant.headers))
    for base, headers in (
        ("/v1", tenant.headers),
        (f"/v1/admin/tenants/{tenant.id}", _ADMIN),
    ):
        route = "/v1" if base == "/v1" else "/v1/admin/tenants/{tenant_id}"
        document.check(f"{route}/invoices", await client.get(f"{base}/invoices", headers=headers))
        month = f"{base}/invoices/{now():%Y-%m}"
        document.check(f"{route}/invoices/{{month}}", await client.get(month, headers=headers))
        document.check(f"{route}/budgets", await client.get(f"{base}/budgets", headers=headers))
        lines = await client.get(f"{month}/lines.csv", headers=headers)
        document.check(f"{route}/invoices/{{month}}/lines.csv", lines)
        document.check(
            f"{route}/invoices/{{month}}/invoice.pdf", await client.get(f"{month}/invoice.pdf", headers=headers)
        )
        by_label = await client.get(f"{month}/labels/team", headers=headers)
        document.check(f"{route}/invoices/{{month}}/labels/{{label}}", by_label)
        document.check(f"{route}/usage", await client.get(f"{base}/usage", headers=headers))
        for suffix in ("csv", "jsonl"):
            records = await client.get(f"{base}/usage/records.{suffix}", headers=headers)
            document.check(f"{route}/usage/records.{suffix}", records)
    async with client.stream("POST", "/v1/chat/stream", json={"input": "x"}, headers=tenant.headers) as chat:
        chatted = UUID(chat.headers["x-laneway-task-id"])
        await streams.append(
            pipelined(state), streams.key(tenant.id, chatted), _end(tenant.id, chatted).events, create=True
        )
        await chat.aread()
    document.check("/v1/chat/stream", chat)
    await _approved(document, gateway, tenant)
    await _batched(document, gateway, stage)
    await _scheduled(document, gateway)
    await _conversed(document, gateway)
    await _registered(document, gateway)
    await _administered(document, client)
    assert document.seen == document.successes()


async def _approved(document: _Document, gateway: Running, tenant: Tenant) -> None:
    task, route = await waiting(gateway, tenant), "/v1/tasks/{task_id}/approvals"
    address = f"/v1/tasks/{task}/approvals"
    document.check("/v1/tasks/{task_id}", await gateway.client.get(f"/v1/tasks/{task}", headers=tenant.headers))
    document.check(route, await gateway.client.get(address, headers=tenant.headers))
    body = {"call_id": "c1", "decision": "approve"}
    document.check(route, await gateway.client.post(address, json=body, headers=tenant.headers))
    document.check(route, await gateway.client.get(address, headers=tenant.headers))


async def _batched(document: _Document, gateway: Running, stage: Stage) -> None:
    tenant, client, own = await gateway.tenant(), gateway.client, "/v1/batches/{batch_id}"
    batch = document.check("/v1/batches", await submit(gateway, tenant, questions(3), "some")).json()
    document.check("/v1/batches", await submit(gateway, tenant, questions(3), "some"))
    await gateway.database.execute(
        "SELECT runtime.cancel(t.id, $2, 'pro') FROM unnest($1::uuid[]) t (id)",
        [UUID(task["id"]) for task in batch["tasks"]],
        tenant.id,
    )
    document.check(own, await client.get(batch["links"]["self"], headers=tenant.headers))
    for name in ("results", "events"):
        document.check(f"{own}/{name}", await client.get(batch["links"][name], headers=tenant.headers))
    document.check(f"{own}/cancel", await client.post(batch["links"]["cancel"], headers=tenant.headers))
    document.check("/v1/tasks/cancel", await client.post("/v1/tasks/cancel", json={}, headers=tenant.headers))
    cancel = await client.post(f"/v1/admin/tenants/{tenant.id}/cancel", json={"status": "queued"}, headers=_ADMIN)
    document.check("/v1/admin/tenants/{tenant_id}/cancel", cancel)
    document.check("/v1/admin/lanes", await client.get("/v1/admin/lanes", headers=_ADMIN))
    document.check("/v1/admin/proof", await client.get("/v1/admin/proof", headers=_ADMIN))
    emptied = f"/api/queues/{stage.name}/{lane('pro')}/contents"
    with full(stage, "pro", 5), stage.management() as broker:

        async def in_part() -> list[httpx2.Response]:
            assert broker.delete(emptied).is_success
            response = await submit(gateway, tenant, questions(100))
            return [response] if response.status_code == 207 else []

        (partly,) = await eventually(in_part)
    document.check("/v1/batches", partly)


async def _scheduled(document: _Document, gateway: Running) -> None:
    tenant, client, own = await gateway.tenant(), gateway.client, "/v1/schedules/{schedule_id}"
    body = {"cron": "0 9 * * 1-5", "task": {"input": "What is new?"}}
    made = document.check("/v1/schedules", await client.post("/v1/schedules", json=body, headers=tenant.headers))
    await gateway.database.execute(
        "INSERT INTO runtime.ticks (schedule_id, tenant_id, tick_at, until, outcome, reason)"
        " VALUES ($1, $2, now(), now(), 'missed', 'late')",
        UUID(made.json()["id"]),
        tenant.id,
    )
    address = made.headers["Location"]
    document.check("/v1/schedules", await client.get("/v1/schedules", headers=tenant.headers))
    document.check(own, await client.get(address, headers=tenant.headers))
    document.check(own, await client.patch(address, json={"enabled": False}, headers=tenant.headers))
    document.check(own, await client.delete(address, headers=tenant.headers))


async def _conversed(document: _Document, gateway: Running) -> None:
    tenant, client, conversation, all_of_them = await gateway.tenant(), gateway.client, uuid4(), "/v1/conversations"
    own, address = f"{all_of_them}/{{conversation_id}}", f"{all_of_them}/{conversation}"
    await gateway.database.execute(
        "INSERT INTO history.conversations VALUES ($1, $2, 'ada', 'A title', false, now(), now())",
        tenant.id,
        conversation,
    )
    said = [{"role": "user", "content": [{"type": "text", "text": "What is AI?"}]}]
    await gateway.database.execute(
        "INSERT INTO runtime.turns VALUES ($1, $2, $3, 'ada', now(), 1, $4, 10, now())",
        uuid4(),
        tenant.id,
        conversation,
        json.dumps(said),
    )
    document.check(all_of_them, await client.get(all_of_them, headers=tenant.headers))
    document.check(own, await client.get(address, headers=tenant.headers))
    document.check(f"{own}/messages", await client.get(f"{address}/messages", headers=tenant.headers))
    document.check(own, await client.patch(address, json={"title": "Another"}, headers=tenant.headers))
    document.check(f"{own}/cancel", await client.post(f"{address}/cancel", headers=tenant.headers))
    await _uploaded(document, client, tenant, conversation)
    document.check(own, await client.delete(address, headers=tenant.headers))
    document.check(own, await client.delete(address, headers=tenant.headers))


async def _registered(document: _Document, gateway: Running) -> None:
    tenant, client, own = await gateway.tenant(), gateway.client, "/v1/mcp-servers/{name}"
    body, address = {"url": "https://x.example/mcp", "agents": ["default"]}, "/v1/mcp-servers/crm"
    for _ in range(2):
        document.check(own, await client.put(address, json=body, headers=tenant.headers))
    document.check("/v1/mcp-servers", await client.get("/v1/mcp-servers", headers=tenant.headers))
    document.check(own, await client.get(address, headers=tenant.headers))
    document.check(own, await client.delete(address, headers=tenant.headers))
    await client.put(address, json=body, headers=tenant.headers)
    route, operators = "/v1/admin/tenants/{tenant_id}/mcp-servers", f"/v1/admin/tenants/{tenant.id}/mcp-servers"
    document.check(route, await client.get(operators, headers=_ADMIN))
    document.check(f"{route}/{{name}}", await client.delete(f"{operators}/crm", headers=_ADMIN))


async def _uploaded(document: _Document, client: httpx2.AsyncClient, tenant: Tenant, conversation: UUID) -> None:
    own, address = "/v1/conversations/{conversation_id}/documents", f"/v1/conversations/{conversation}/documents"
    body, headers = {"name": "a.md", "content": "What AI is."}, tenant.headers | {"Idempotency-Key": "page"}
    made = document.check(own, await client.post(address, json=body, headers=headers))
    document.check(own, await client.post(address, json=body, headers=headers))
    document.check(own, await client.get(address, headers=tenant.headers))
    for one in (client.get, client.delete):
        document.check(f"{own}/{{document_id}}", await one(made.headers["Location"], headers=tenant.headers))


async def _administered(document: _Document, client: httpx2.AsyncClient) -> None:
    tenants, keys, users = "/v1/admin/tenants", "/{tenant_id}/keys", "/{tenant_id}/users/{user_id}"
    made = await client.post(tenants, json={"name": "Acme", "plan": "pro"}, headers=_ADMIN)
    tenant = document.check(tenants, made).json()["id"]
    key = document.check(tenants + keys, await client.post(f"{tenants}/{tenant}/keys", headers=_ADMIN)).json()["key_id"]
    put = await client.put(f"{tenants}/{tenant}/users/ada", json={"tier": "free"}, headers=_ADMIN)
    document.check(tenants + users, put)
    limits = {"max_outstanding": 5, "max_running": None}
    put = await client.put(f"{tenants}/{tenant}/limits", json=limits, headers=_ADMIN)
    document.check(tenants + "/{tenant_id}/limits", put)
    got = await client.get(f"{tenants}/{tenant}/limits", headers=_ADMIN)
    document.check(tenants + "/{tenant_id}/limits", got)
    who = {"by": "ada", "reason": "a test"}
    for path, route in (("run", "/{scope}"), ("user_day/ada", "/{scope}/{subject}")):
        address = f"{tenants}/{tenant}/budgets/{path}"
        put = await client.put(address, json={"cap_usd": "2", **who}, headers=_ADMIN)
        document.check(tenants + "/{tenant_id}/budgets" + route, put)
        removed = await client.delete(address, params=who, headers=_ADMIN)
        document.check(tenants + "/{tenant_id}/budgets" + route, removed)
    zone = {"time_zone": "Europe/Vienna", **who}
    put = await client.put(f"{tenants}/{tenant}/time-zone", json=zone, headers=_ADMIN)
    document.check(tenants + "/{tenant_id}/time-zone", put)
    plan = f"{tenants}/{tenant}/plan"
    put = await client.put(plan, json={"plan": "free", **who}, headers=_ADMIN)
    document.check(tenants + "/{tenant_id}/plan", put)
    document.check(tenants + "/{tenant_id}/plan", await client.get(plan, headers=_ADMIN))
    document.check("/v1/admin/doubts", await client.get("/v1/admin/doubts", headers=_ADMIN))
    document.check("/v1/admin/burn-rates", await client.get("/v1/admin/burn-rates", headers=_ADMIN))
    document.check("/v1/admin/keys/{key_id}", await client.delete(f"/v1/admin/keys/{key}", headers=_ADMIN))
    paused = {"scope": "tenant", "name": tenant, "by": "ada", "reason": "a test"}
    document.check("/v1/admin/pauses", await client.post("/v1/admin/pauses", json=paused, headers=_ADMIN))
    document.check("/v1/admin/pauses", await client.get("/v1/admin/pauses", headers=_ADMIN))
    resumed = await client.post("/v1/admin/pauses/resume", json=paused, headers=_ADMIN)
    document.check("/v1/admin/pauses/resume", resumed)


def _end(tenant_id: UUID, task_id: UUID) -> RunFinished:
    event = {"fence": 1, "seq": 1, "type": "done", "at": now(), "data": {"status": "completed"}}
    return RunFinished.model_validate(
        {"task_id": task_id, "tenant_id": tenant_id, "tier": "pro", "fence": 1, "status": "completed",
         "events": [event], "usage": Usage(output_tokens=3), "finished_at": now()}
    )  # fmt: skip


async def _finished(gateway: Running, tenant_id: UUID, task_id: UUID) -> None:
    """As the persister and billing leave it."""
    await gateway.database.execute(
        "INSERT INTO history.tasks (task_id, tenant_id, tier, status, priority, agent, metadata, submitted_at, usage,"
        " error_type, error_message, finished_at)"
        " VALUES ($1, $2, 'pro', 'cancelled', 5, 'default', '{\"a\": \"b\"}', now(), $3, 'cancelled', 'x', now())",
        task_id,
        tenant_id,
        Usage(output_tokens=3).model_dump_json(),
    )
    await gateway.database.execute(
        "INSERT INTO billing.usage (attempt_id, tenant_id, task_id, agent, provider, model, step, call,"
        " input_tokens, cache_read_tokens, cache_write_5m_tokens, cache_write_1h_tokens, output_tokens,"
        " reasoning_tokens, vector, estimated, price_id, cost, charge, variance, metadata, recorded_at)"
        " VALUES ($1, $2, $3, 'default', 'anthropic', 'm', 1, 1, 10, 0, 0, 0, 5, 0, '{}', false,"
        " (SELECT min(price_id) FROM billing.prices), 0.5, 0.5, 0, '{}', now())",
        uuid4(),
        tenant_id,
        task_id,
    )


async def test_every_refusal_is_as_described(gateway: Running, document: _Document, state: Client) -> None:
    tenant, client, key = await gateway.tenant(), gateway.client, f"order-{uuid4()}"
    await gateway.submit(tenant, key=key)
    for address in ("/v1/tasks", "/v1/chat/stream"):
        for body, more in (
            ({"input": ""}, {}),
            ({"input": "x", "tier": "enterprise"}, {}),
            ({"input": "other"}, {"Idempotency-Key": key}),
            ({"input": "x"}, {"Content-Type": "text/plain"}),
            ({"input": "x" * 140_000}, {}),
            ({"input": "x"}, {"Authorization": ""}),
        ):
            document.check(address, await client.post(address, json=body, headers=tenant.headers | more))
        await state.hset(rate_key(tenant.id), "tokens", -1000)
        document.check(address, await client.post(address, json={"input": "x"}, headers=tenant.headers))
        await state.hset(rate_key(tenant.id), "tokens", 1000)
    for route in ("/v1/tasks/{task_id}", "/v1/tasks/{task_id}/events"):
        document.check(route, await client.get(route.format(task_id="none"), headers=tenant.headers))
    for address in ("/v1/tasks?limit=0", "/v1/tasks?cursor=x", "/v1/usage?from=x"):
        document.check(address.partition("?")[0], await client.get(address, headers=tenant.headers))
    await _refused_approvals(document, gateway, tenant)
    await _refused_of_many(document, gateway, tenant, state)
    await _refused_uploads(document, client, tenant)
    await _refused_servers(document, client, tenant)
    tenants = "/v1/admin/tenants"
    document.check(tenants, await client.post(tenants, json={"name": "x"}, headers=_ADMIN))
    document.check(tenants, await client.post(tenants, json={"name": "x"}))
    document.check(tenants, await client.post(tenants, json={"name": "x" * 140_000}, headers=_ADMIN))
    for key_id in ("none", "%00"):
        gone = await client.delete(f"/v1/admin/keys/{key_id}", headers=_ADMIN)
        document.check("/v1/admin/keys/{key_id}", gone)


async def _refused_approvals(document: _Document, gateway: Running, tenant: Tenant) -> None:
    task, route = await waiting(gateway, tenant), "/v1/tasks/{task_id}/approvals"
    address, asked = f"/v1/tasks/{task}/approvals", {"call_id": "c1", "decision": "deny"}
    await gateway.client.post(address, json=asked, headers=tenant.headers)
    changes: list[tuple[dict[str, str], dict[str, str]]] = [
        ({"decision": "approve"}, {}),
        ({"call_id": "c2"}, {}),
        ({"decision": "maybe"}, {}),
        ({}, {"Content-Type": "text/plain"}),
        ({"reason": "x" * 140_000}, {}),
        ({}, {"Authorization": ""}),
    ]
    for body, more in changes:
        document.check(route, await gateway.client.post(address, json=asked | body, headers=tenant.headers | more))
    for nobody in ("none", str(uuid4())):
        other = f"/v1/tasks/{nobody}/approvals"
        document.check(route, await gateway.client.get(other, headers=tenant.headers))
        document.check(route, await gateway.client.post(other, json=asked, headers=tenant.headers))


async def _refused_of_many(document: _Document, gateway: Running, tenant: Tenant, state: Client) -> None:
    client, own, batches = gateway.client, "/v1/batches/{batch_id}", "/v1/batches"
    await submit(gateway, tenant, questions(1), "taken")
    for body, more in (
        (questions(0), {}),
        (questions(1, tier="enterprise"), {}),
        (questions(2), {"Idempotency-Key": "taken"}),
        (questions(1), {"Content-Type": "text/plain"}),
        (questions(1), {"Authorization": ""}),
    ):
        document.check(batches, await client.post(batches, json=body, headers=tenant.headers | more))
    small = await gateway.tenant("pro", max_outstanding=2)
    document.check(batches, await submit(gateway, small, questions(3)))
    await state.hset(rate_key(tenant.id), "tokens", -1000)
    document.check(batches, await submit(gateway, tenant, questions(1)))
    for name in ("", "/results", "/events"):
        document.check(own + name, await client.get(f"{batches}/none{name}", headers=tenant.headers))
    document.check(f"{own}/cancel", await client.post(f"{batches}/none/cancel", headers=tenant.headers))
    batch = (await submit(gateway, small, questions(2))).json()
    for name, wrong in (("", "?limit=0"), ("/results", "?cursor=x"), ("/events", "?last_event_id=!")):
        found = await client.get(batch["links"]["self"] + name + wrong, headers=small.headers)
        assert document.check(own + name, found).status_code == 422
    cancel, operators = "/v1/tasks/cancel", "/v1/admin/tenants/{tenant_id}/cancel"
    for body, more in (
        ({"status": "failed"}, {}),
        ({"metadata": {"x": "y" * 140_000}}, {}),
        ({}, {"Authorization": ""}),
    ):
        document.check(cancel, await client.post(cancel, json=body, headers=tenant.headers | more))
        address = operators.format(tenant_id=tenant.id)
        document.check(operators, await client.post(address, json=body, headers=_ADMIN | more))
    nobody = operators.format(tenant_id=uuid4())
    document.check(operators, await client.post(nobody, json={}, headers=_ADMIN))
    document.check("/v1/admin/lanes", await client.get("/v1/admin/lanes", headers=tenant.headers))


async def _refused_servers(document: _Document, client: httpx2.AsyncClient, tenant: Tenant) -> None:
    own, address = "/v1/mcp-servers/{name}", "/v1/mcp-servers/crm"
    document.check(own, await client.get(address, headers=tenant.headers))
    document.check(own, await client.delete(address, headers=tenant.headers))
    refused: list[tuple[dict[str, str], dict[str, str]]] = [
        ({"url": "x"}, {}),
        ({"url": "x" * 140_000}, {}),
        ({}, {"Content-Type": "text/plain"}),
        ({}, {"Authorization": ""}),
    ]
    for body, more in refused:
        document.check(own, await client.put(address, json=body, headers=tenant.headers | more))


async def _refused_uploads(document: _Document, client: httpx2.AsyncClient, tenant: Tenant) -> None:
    own, address = "/v1/conversations/{conversation_id}/documents", f"/v1/conversations/{uuid4()}/documents"
    body = {"name": "a.md", "content": "What AI is."}
    for refused, more in (
        ({"name": ""}, {}),
        (body, {"Idempotency-Key": "taken"}),
        (body | {"content": "x"}, {"Idempotency-Key": "taken"}),
        (body, {"Content-Type": "text/plain"}),
        (body, {"Authorization": ""}),
    ):
        document.check(own, await client.post(address, json=refused, headers=tenant.headers | more))
    for one in (client.get, client.delete):
        document.check(f"{own}/{{document_id}}", await one(f"{address}/none", headers=tenant.headers))


async def test_nothing_is_described_that_is_never_sent(document: _Document) -> None:
    assert not {"HTTPValidationError", "ValidationError"} & set(document.schemas)
    for methods in document.paths.values():
        for operation in methods.values():
            for status, response in operation["responses"].items():
                media = set(response.get("content", {}))
                assert status == "204" or len(media) == 1
                assert status.startswith("2") or media == {_PROBLEM}
                assert all(content.get("schema") for content in response.get("content", {}).values())
