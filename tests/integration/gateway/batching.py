"""What the tests of batches share: the services that a batch needs beside the gateway, and ways to ask for things."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID

import httpx2

from common.messaging.topology import PERSISTER, lane
from common.settings import Health
from persister.bootstrap import persister
from persister.settings import PersisterSettings
from tests.integration.gateway.conftest import Running, Tenant
from tests.stage import Stage, eventually


@asynccontextmanager
async def recording(stage: Stage) -> AsyncIterator[None]:
    """The persister itself."""
    settings = PersisterSettings(
        rabbit=stage.rabbit(PERSISTER),
        postgres=stage.postgres("laneway_persister"),
        redis=stage.redis,
        health=Health(host="127.0.0.1", port=0),
    )
    async with persister(settings):
        yield


def questions(count: int, **fields: Any) -> dict[str, Any]:
    """The body of a batch."""
    return {"tasks": [{"input": f"Question {n}?"} | fields for n in range(count)]}


async def submit(gateway: Running, tenant: Tenant, body: dict[str, Any], key: str | None = None) -> httpx2.Response:
    """Submit a batch."""
    headers = tenant.headers | ({"Idempotency-Key": key} if key is not None else {})
    return await gateway.client.post("/v1/batches", json=body, headers=headers, timeout=40)


async def read(gateway: Running, tenant: Tenant, batch: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    """The batch as it is now."""
    response = await gateway.client.get(batch["links"]["self"], headers=tenant.headers, params=parameters)
    assert response.status_code == 200, response.text
    document: dict[str, Any] = response.json()
    return document


async def recorded(gateway: Running, batch: dict[str, Any], count: int | None = None) -> None:
    """Wait until the persister has so many of its tasks, or all."""

    async def all_there() -> bool:
        statement = "SELECT count(*) FROM history.tasks WHERE batch_id = $1 AND submitted_at IS NOT NULL"
        found = await gateway.database.fetchval(statement, UUID(batch["id"]))
        return bool(found == (batch["size"] if count is None else count))

    await eventually(all_there, 30)


@contextmanager
def full(stage: Stage, tier: str, most: int) -> Iterator[None]:
    """A policy under which the lane of a tier takes so many messages."""
    path = f"/api/policies/{stage.name}/full"
    definition = {"max-length": most, "overflow": "reject-publish"}
    policy = {"pattern": f"^{lane(tier)}$", "apply-to": "quorum_queues", "priority": 9, "definition": definition}
    with stage.management() as client:
        assert client.put(path, json=policy).is_success
        try:
            yield
        finally:
            assert client.delete(path).is_success


class Events:
    """What a client of a batch's stream was sent."""

    def __init__(self) -> None:
        self.all: list[tuple[str | None, str, dict[str, Any]]] = []

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The data of the events of one kind."""
        return [data for _, named, data in self.all if named == kind]

    @property
    def last_id(self) -> str | None:
        """Where a client goes on."""
        return next((named for named, _, _ in reversed(self.all) if named is not None), None)

    async def read(self, response: httpx2.Response, until: int | None = None) -> None:
        """Read to the end, or so many events."""
        fields: dict[str, str] = {}
        async for line in response.aiter_lines():
            if line and not line.startswith(":"):
                name, _, value = line.partition(": ")
                fields[name] = value
            elif not line:
                if "data" in fields:
                    self.all.append((fields.get("id"), fields["event"], json.loads(fields["data"])))
                fields = {}
                if until is not None and len(self.all) >= until:
                    return


async def follow(
    gateway: Running, tenant: Tenant, batch: dict[str, Any], after: str | None = None, until: int | None = None
) -> Events:
    """Follow a batch to its end, or for so many events."""
    events = Events()
    headers = tenant.headers | ({"Last-Event-ID": after} if after else {})
    async with gateway.client.stream("GET", batch["links"]["events"], headers=headers, timeout=60) as response:
        assert response.status_code == 200, await response.aread()
        await events.read(response, until)
    return events
