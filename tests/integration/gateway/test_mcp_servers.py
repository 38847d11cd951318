"""MCP servers as tenants register them: kept, shown without what is secret, replaced, deleted; and refused."""

from __future__ import annotations

import asyncio
from ipaddress import ip_network
from typing import Any

import asyncpg
import httpx2
import pytest

from gateway.mcp_schemas import MOST_SERVERS, why_not
from tests.integration.gateway.conftest import ADMIN_KEY, Running, Tenant
from tests.stage import Stage

SECRET = "Bearer s3cret-0815"
URL = "https://mcp.example.org/mcp"


class Registry:
    """A tenant's servers, and their client."""

    def __init__(self, gateway: Running, tenant: Tenant) -> None:
        self.gateway, self.tenant = gateway, tenant

    async def put(self, name: str = "crm", **fields: Any) -> httpx2.Response:
        """Register one."""
        body = {"url": URL, "agents": ["default"], **fields}
        return await self.gateway.client.put(f"/v1/mcp-servers/{name}", json=body, headers=self.tenant.headers)

    async def get(self, path: str = "") -> httpx2.Response:
        """Read of them."""
        return await self.gateway.client.get(f"/v1/mcp-servers{path}", headers=self.tenant.headers)

    async def delete(self, name: str) -> int:
        """Delete one."""
        address = f"/v1/mcp-servers/{name}"
        return (await self.gateway.client.delete(address, headers=self.tenant.headers)).status_code

    async def names(self) -> list[str]:
        """What is there."""
        return [item["name"] for item in (await self.get()).json()["items"]]


@pytest.fixture
async def registry(gateway: Running) -> Registry:
    return Registry(gateway, await gateway.tenant())


async def test_a_server_is_registered_shown_replaced_and_deleted(registry: Registry) -> None:
    made = await registry.put(auth={"value": SECRET}, tools=["find"], ask=True)
    assert made.status_code == 201, made.text
    shown = made.json()
    assert (shown["url"], shown["agents"], shown["tools"]) == (URL, ["default"], ["find"])
    assert (shown["ask"], shown["trust_annotations"], shown["timeout_seconds"]) == (True, False, 30)
    assert shown["auth"] == {"header": "Authorization"}
    assert (await registry.get("/crm")).json() == shown
    assert (await registry.get()).json() == {"items": [shown]}
    again = await registry.put(agents=["default", "writer"], timeout_seconds=5, trust_annotations=True)
    assert again.status_code == 200
    assert (again.json()["auth"], again.json()["tools"], again.json()["created_at"]) == (
        None,
        None,
        shown["created_at"],
    )
    assert again.json()["updated_at"] > shown["updated_at"]
    await registry.put("another")
    assert await registry.names() == ["another", "crm"]
    assert [await registry.delete("crm") for _ in range(2)] == [204, 404]
    assert (await registry.get("/crm")).status_code == 404
    assert await registry.names() == ["another"]


async def test_what_authenticates_us_there_is_never_shown_again(registry: Registry, stage: Stage) -> None:
    told = [await registry.put(auth={"header": "X-Api-Key", "value": SECRET}), await registry.get("/crm")]
    told += [await registry.get(), await registry.put(auth={"header": "Host", "value": SECRET})]
    told.append(await registry.put(auth={"value": f"{SECRET}\n"}))
    assert [response.status_code for response in told] == [201, 200, 200, 422, 422]
    assert not any(SECRET in response.text for response in told)
    gateway = await asyncpg.connect(stage.login("gateway"))
    worker = await asyncpg.connect(stage.login("agent-worker"))
    try:
        await gateway.execute(f"SET app.tenant_id = '{registry.tenant.id}'")
        assert await gateway.fetchval("SELECT auth_header FROM runtime.mcp_servers") == "X-Api-Key"
        for secret in ("auth_value", "*"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await gateway.fetch(f"SELECT {secret} FROM runtime.mcp_servers")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await gateway.fetch("SELECT * FROM runtime.mcp_servers_of($1)", registry.tenant.id)
        (row,) = await worker.fetch("SELECT * FROM runtime.mcp_servers_of($1)", registry.tenant.id)
        assert row["auth_value"] == SECRET
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await worker.fetch("SELECT name FROM runtime.mcp_servers")
    finally:
        await gateway.close()
        await worker.close()


async def test_another_tenants_server_reads_as_none(registry: Registry) -> None:
    await registry.put()
    stranger = Registry(registry.gateway, await registry.gateway.tenant())
    assert await stranger.names() == []
    assert (await stranger.get("/crm")).status_code == 404
    assert await stranger.delete("crm") == 404
    assert (await stranger.put(url="https://other.example/mcp")).status_code == 201
    assert (await registry.get("/crm")).json()["url"] == URL


async def test_an_operator_sees_and_ends_them(registry: Registry) -> None:
    await registry.put(auth={"value": SECRET})
    client, headers = registry.gateway.client, {"Authorization": f"Bearer {ADMIN_KEY}"}
    address = f"/v1/admin/tenants/{registry.tenant.id}/mcp-servers"
    seen = await client.get(address, headers=headers)
    assert seen.json() == (await registry.get()).json()
    assert SECRET not in seen.text
    assert (await client.get(address, headers=registry.tenant.headers)).status_code == 401
    gone = [(await client.delete(f"{address}/crm", headers=headers)).status_code for _ in range(2)]
    assert gone == [204, 404]
    assert await registry.names() == []


async def test_a_tenant_has_so_many_at_most(registry: Registry) -> None:
    answers = await asyncio.gather(*(registry.put(f"s{number}") for number in range(MOST_SERVERS + 3)))
    assert sorted(answer.status_code for answer in answers) == [201] * MOST_SERVERS + [422] * 3
    assert "at most 10 MCP servers" in next(a.json()["detail"] for a in answers if a.status_code == 422)
    kept = (await registry.names())[0]
    assert (await registry.put(kept)).status_code == 200, "one that is there can be replaced"


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"url": ""}, "url", "at least 1 character"),
        ({"url": "x" * 2001}, "url", "at most 2000"),
        ({"url": "ftp://x.example/"}, "url", "must begin with https://"),
        ({"url": "http://mcp.example.org/mcp"}, "url", "must begin with https://"),
        ({"url": "https://"}, "url", "with a host"),
        ({"url": "https://x.example:99999/"}, "url", "not a URL"),
        ({"url": "https://x.example:8443/"}, "url", "port 443"),
        ({"url": "https://ann:pw@x.example/"}, "url", "use `auth`"),
        ({"url": "https://x.example/#here"}, "url", "fragment"),
        ({"url": "https://127.0.0.1/mcp"}, "url", "private"),
        ({"url": "https://169.254.169.254/latest"}, "url", "private"),
        ({"url": "https://[::ffff:10.0.0.1]/mcp"}, "url", "private"),
        ({"url": "https://localhost/mcp"}, "url", "public web"),
        ({"agents": []}, "agents", "at least 1 item"),
        ({"agents": ["none"]}, "agents", "there is no agent 'none'"),
        ({"agents": ["default", "default"]}, "agents", "twice"),
        ({"auth": {}}, "auth.value", "required"),
        ({"auth": {"value": "a\nb"}}, "auth.value", "printable ASCII"),
        ({"auth": {"value": "x", "header": "Content-Length"}}, "auth.header", "meaning of its own"),
        ({"auth": {"value": "x", "header": "a b"}}, "auth.header", "header's name"),
        ({"tools": []}, "tools", "at least 1 item"),
        ({"tools": ["a", "a"]}, "tools", "twice"),
        ({"timeout_seconds": 0}, "timeout_seconds", "greater than or equal to 1"),
        ({"timeout_seconds": 61}, "timeout_seconds", "less than or equal to 60"),
        ({"ask": "yes"}, "ask", "boolean"),
        ({"command": ["sh"]}, "command", "not permitted"),
        ({"private": True}, "private", "not permitted"),
    ],
)
async def test_what_is_no_server_of_a_tenants_is_refused(
    registry: Registry, fields: dict[str, Any], field: str, reason: str
) -> None:
    refused = await registry.put(**fields)
    assert refused.status_code == 422, refused.text
    assert refused.headers["content-type"] == "application/problem+json"
    (error,) = refused.json()["errors"]
    assert error["field"] == field
    assert reason.lower() in error["reason"].lower()
    assert await registry.names() == []


async def test_what_cannot_be_a_name_or_a_body_is_refused(registry: Registry) -> None:
    for name in ("CRM", "my_crm", "9", "x" * 21):
        refused = await registry.put(name)
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "name")
        assert await registry.delete(name) == 404
    client, headers = registry.gateway.client, registry.tenant.headers
    for content, more, status in (
        (b"{", {"Content-Type": "application/json"}, 422),
        (b"x", {"Content-Type": "text/plain"}, 415),
        (b"{}", {"Content-Type": "application/json", "Authorization": "Bearer none"}, 401),
    ):
        response = await client.put("/v1/mcp-servers/crm", content=content, headers=headers | more)
        assert response.status_code == status


def test_an_operator_may_let_them_be_in_networks_of_its_own() -> None:
    networks = (ip_network("10.1.0.0/16"),)
    assert why_not("http://10.1.2.3:8000/mcp", networks) is None
    assert why_not("http://tools.internal:8000/mcp", networks) is None
    assert "private" in (why_not("http://10.2.0.1:8000/mcp", networks) or "")
    assert "private" in (why_not("https://10.1.2.3/mcp", ()) or "")
