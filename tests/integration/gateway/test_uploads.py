"""Documents of conversations as clients see them: given, listed, read, deleted, and gone with their conversation."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx2
import pytest

from gateway import upload_records
from gateway.limits import MAX_UPLOAD_BODY
from gateway.upload_schemas import LONGEST_DOCUMENT
from tests.integration.gateway.batching import recording
from tests.integration.gateway.conftest import Running, Tenant
from tests.integration.gateway.test_conversations import Talk
from tests.stage import Stage, eventually


class Shelf:
    """A conversation's documents, and their client."""

    def __init__(self, gateway: Running, tenant: Tenant, conversation: UUID | None = None) -> None:
        self.gateway, self.tenant, self.conversation = gateway, tenant, conversation or uuid4()
        self.address = f"/v1/conversations/{self.conversation}/documents"

    async def upload(self, key: str | None = None, **fields: Any) -> httpx2.Response:
        """Give it a document."""
        body = {"name": "handbook.md", "content": "# Leave\n\nEverybody has 25 days."} | fields
        headers = self.tenant.headers | ({"Idempotency-Key": key} if key is not None else {})
        return await self.gateway.client.post(self.address, json=body, headers=headers)

    async def get(self, path: str = "") -> httpx2.Response:
        """Read of it."""
        return await self.gateway.client.get(self.address + path, headers=self.tenant.headers)

    async def names(self) -> list[str]:
        """What is there."""
        response = await self.get()
        assert response.status_code == 200, response.text
        return [item["name"] for item in response.json()["items"]]


@pytest.fixture
async def shelf(gateway: Running) -> Shelf:
    return Shelf(gateway, await gateway.tenant())


async def test_a_document_is_given_read_and_deleted(shelf: Shelf) -> None:
    made = await shelf.upload()
    assert made.status_code == 201, made.text
    document = made.json()
    assert made.headers["Location"] == document["links"]["self"] == f"{shelf.address}/{document['id']}"
    assert (document["name"], document["language"]) == ("handbook.md", "english")
    assert (document["characters"], document["passages"]) == (31, 1)
    assert document["conversation_id"] == str(shelf.conversation)
    await shelf.upload(name="zweites.txt", content="Häuser " * 1000, language="german")
    assert await shelf.names() == ["handbook.md", "zweites.txt"]
    assert "content" not in (await shelf.get()).json()["items"][0]
    read = (await shelf.get(f"/{document['id']}")).json()
    assert read.pop("content") == "# Leave\n\nEverybody has 25 days."
    assert read == document

    client, headers = shelf.gateway.client, shelf.tenant.headers
    gone = [await client.delete(document["links"]["self"], headers=headers) for _ in range(2)]
    assert [response.status_code for response in gone] == [204, 404]
    assert (await shelf.get(f"/{document['id']}")).status_code == 404
    assert await shelf.names() == ["zweites.txt"]
    left = "SELECT count(*) FROM runtime.passages WHERE document_id = $1"
    assert await shelf.gateway.database.fetchval(left, UUID(document["id"])) == 0


async def test_a_long_document_comes_back_as_it_was(shelf: Shelf) -> None:
    content = (
        "".join(f"Paragraph {n} says this. And that.\n\n{'word ' * (n % 400)}" for n in range(900))[:999_000] + "é🎈"
    )
    made = (await shelf.upload(content=content)).json()
    assert made["characters"] == len(content)
    assert made["passages"] > len(content) / 1_500
    assert (await shelf.get(f"/{made['id']}")).json()["content"] == content


async def test_the_same_upload_twice_is_one_document(shelf: Shelf) -> None:
    first, again = await shelf.upload(key="page-1"), await shelf.upload(key="page-1")
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.json() == again.json()
    other = await shelf.upload(key="page-1", content="something else")
    assert (other.status_code, other.json()["type"]) == (409, "urn:laneway:problem:idempotency-conflict")
    elsewhere = Shelf(shelf.gateway, shelf.tenant)
    assert (await elsewhere.upload(key="page-1")).status_code == 201
    assert (await shelf.upload()).status_code == 201
    assert len(await shelf.names()) == 2
    assert (await shelf.upload(key="x" * 201)).status_code == 422


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "  "}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"name": 5}, "name"),
        ({"content": ""}, "content"),
        ({"content": " \n"}, "content"),
        ({"content": "a\0b"}, "content"),
        ({"content": "x" * (LONGEST_DOCUMENT + 1)}, "content"),
        ({"language": "klingon"}, "language"),
        ({"title": "x"}, "title"),
    ],
)
async def test_what_is_no_document_is_refused(shelf: Shelf, fields: dict[str, Any], field: str) -> None:
    refused = await shelf.upload(**fields)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, field)
    assert await shelf.names() == []


async def test_a_body_that_is_none_is_refused(shelf: Shelf) -> None:
    client, headers = shelf.gateway.client, shelf.tenant.headers
    json = {"Content-Type": "application/json"}
    for content, more, status in (
        (b"{", json, 422),
        (b"[]", json, 422),
        (b'{"name": "x"}', json, 422),
        (b"text", {"Content-Type": "text/plain"}, 415),
        (b"{}", {**json, "Authorization": "Bearer none"}, 401),
    ):
        response = await client.post(shelf.address, content=content, headers=headers | more)
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"


async def test_too_large_a_body_is_refused_before_it_is_read(shelf: Shelf) -> None:
    address = shelf.gateway.client.base_url
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(
            f"POST {shelf.address} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {shelf.tenant.key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {MAX_UPLOAD_BODY + 1}\r\n\r\n".encode()
        )
        assert (await reader.readline()).startswith(b"HTTP/1.1 413")
    finally:
        writer.close()


async def test_another_tenants_document_reads_as_none(shelf: Shelf) -> None:
    document = (await shelf.upload()).json()
    stranger = Shelf(shelf.gateway, await shelf.gateway.tenant(), shelf.conversation)
    own, client = document["links"]["self"], shelf.gateway.client
    assert await stranger.names() == []
    for response in (
        await client.get(own, headers=stranger.tenant.headers),
        await client.delete(own, headers=stranger.tenant.headers),
        await client.get(f"/v1/conversations/{uuid4()}/documents/{document['id']}", headers=shelf.tenant.headers),
        await client.get(f"{shelf.address}/none", headers=shelf.tenant.headers),
        await client.get("/v1/conversations/none/documents", headers=shelf.tenant.headers),
        await client.post("/v1/conversations/none/documents", json={"name": "x", "content": "x"},
                          headers=shelf.tenant.headers),
    ):  # fmt: skip
        assert response.status_code == 404
    assert (await client.get(own)).status_code == 401
    assert await shelf.names() == ["handbook.md"]
    # Nor does the database show it, whatever the statement.
    connection = await asyncpg.connect(shelf.gateway.stage.login("gateway"))
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL app.tenant_id = '{stranger.tenant.id}'")
            for table in ("documents", "passages"):
                assert await connection.fetchval(f"SELECT count(*) FROM runtime.{table}") == 0
    finally:
        await connection.close()


async def test_a_conversation_and_a_tenant_hold_so_much(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload_records, "_LIMITS", (2, 100, 150))
    assert (await shelf.upload(content="x" * 60)).status_code == 201
    refused = await shelf.upload(content="x" * 41)
    assert (refused.status_code, refused.json()["detail"][:31]) == (422, "A conversation has at most 50 d")
    assert (await shelf.upload(content="x" * 10)).status_code == 201
    assert (await shelf.upload(content="x")).status_code == 422  # the third
    other = Shelf(shelf.gateway, shelf.tenant)
    assert (await other.upload(content="x" * 80)).status_code == 201
    refused = await other.upload(content="x")
    assert (refused.status_code, refused.json()["detail"][:28]) == (422, "The documents of a tenant ha")
    first = (await shelf.get()).json()["items"][0]["links"]["self"]
    assert (await shelf.gateway.client.delete(first, headers=shelf.tenant.headers)).status_code == 204
    assert (await other.upload(content="x")).status_code == 201


async def test_documents_go_with_their_conversation(gateway: Running, stage: Stage) -> None:
    talk = Talk(gateway, await gateway.tenant())
    shelf, kept = Shelf(gateway, talk.tenant, talk.id), Shelf(gateway, talk.tenant)
    await shelf.upload()
    await kept.upload()
    async with recording(stage):
        task = await talk.say("hello")
        await gateway.database.execute("SELECT runtime.cancel($1, $2, 'pro')", task, talk.tenant.id)
        assert (await talk.delete()).status_code == 202
        assert await shelf.names() == []
        assert await kept.names() == ["handbook.md"]

        async def complete() -> bool:
            return bool((await talk.delete()).json()["complete"])

        await eventually(complete, 30)
    # The id can be used again, and what comes then goes with the next deletion.
    await shelf.upload(name="later.md")
    assert await shelf.names() == ["later.md"]
    assert (await talk.delete()).status_code == 202
    assert await shelf.names() == []


async def test_documents_of_an_id_that_no_task_has_named_are_deleted_too(shelf: Shelf) -> None:
    own = f"/v1/conversations/{shelf.conversation}"
    delete = shelf.gateway.client.delete
    assert (await delete(own, headers=shelf.tenant.headers)).status_code == 404
    await shelf.upload()
    assert (await delete(own, headers=(await shelf.gateway.tenant()).headers)).status_code == 404
    assert (await delete(own, headers=shelf.tenant.headers)).status_code == 202
    assert await shelf.names() == []


async def test_a_task_says_how_far_its_agent_is(shelf: Shelf) -> None:
    gateway, tenant = shelf.gateway, shelf.tenant
    submitted = (await gateway.submit(tenant)).json()
    task, own = UUID(submitted["id"]), submitted["links"]["self"]
    assert (await gateway.client.get(own, headers=tenant.headers)).json()["progress"] is None
    await gateway.database.execute("SELECT runtime.acquire($1, $2, 'pro', 'w', interval '1 minute')", task, tenant.id)
    told = '{"message": "halfway", "percentage": 50.0, "at": "2026-07-01T09:00:00+00:00"}'
    await gateway.database.execute("SELECT runtime.report_progress($1, 1, $2)", task, told)
    seen = (await gateway.client.get(own, headers=tenant.headers)).json()["progress"]
    assert seen == {"message": "halfway", "percentage": 50.0, "at": "2026-07-01T09:00:00+00:00"}
