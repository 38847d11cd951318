from __future__ import annotations

import asyncio
from uuid import uuid4

import asyncpg
import pytest

from common.contracts import Contract, PausesChanged
from common.messaging.connection import Broker
from common.messaging.consumer import hearing_control
from tests.integration.gateway.conftest import ADMIN_KEY, Running

ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
WHY = {"by": "ada@example.com", "reason": "provider outage"}


async def paused(gateway: Running) -> list[tuple[str, str | None, bool]]:
    answer = (await gateway.client.get("/v1/admin/pauses", headers=ADMIN)).json()
    return [(pause["scope"], pause["name"], pause["kill"]) for pause in answer["pauses"]]


async def test_a_pause_is_kept_and_heard_and_logged_until_it_is_ended(gateway: Running) -> None:
    heard: asyncio.Queue[Contract] = asyncio.Queue()
    agent = {"scope": "agent", "name": "analyst"}
    async with (
        Broker(gateway.stage.rabbit("agent-worker"), "test/control") as broker,
        hearing_control(broker, f"test-{uuid4()}", heard.put_nowait),
    ):
        made = await gateway.client.post("/v1/admin/pauses", json={**agent, **WHY}, headers=ADMIN)
        assert made.status_code == 200, made.text
        async with asyncio.timeout(15):
            assert isinstance(await heard.get(), PausesChanged)
    assert await paused(gateway) == [("agent", "analyst", False)]
    # A pause becomes a kill.
    await gateway.client.post("/v1/admin/pauses", json={**agent, **WHY, "kill": True}, headers=ADMIN)
    assert await paused(gateway) == [("agent", "analyst", True)]
    resumed = await gateway.client.post("/v1/admin/pauses/resume", json={**agent, **WHY}, headers=ADMIN)
    assert (resumed.status_code, await paused(gateway)) == (204, [])
    again = await gateway.client.post("/v1/admin/pauses/resume", json={**agent, **WHY}, headers=ADMIN)
    assert (again.status_code, again.json()["detail"]) == (404, "That is not paused.")
    log = (await gateway.client.get("/v1/admin/pauses?log=3", headers=ADMIN)).json()["log"]
    assert [entry["action"] for entry in log] == ["resume", "kill", "pause"]
    assert {(entry["by"], entry["reason"], entry["name"]) for entry in log} == {(*WHY.values(), "analyst")}


@pytest.mark.parametrize(
    ("what", "field"),
    [
        ({"scope": "planet", **WHY}, "scope"),
        ({"scope": "tier", **WHY}, "name"),
        ({"scope": "tier", "name": "gold", **WHY}, "name"),
        ({"scope": "agent", "name": "nobody", **WHY}, "name"),
        ({"scope": "tenant", "name": "acme", **WHY}, "name"),
        ({"scope": "everything", "name": "free", **WHY}, "name"),
        ({"scope": "everything", "reason": "x"}, "by"),
        ({"scope": "everything", "by": "x", "reason": ""}, "reason"),
    ],
)
async def test_what_is_not_there_cannot_be_paused(gateway: Running, what: dict[str, str], field: str) -> None:
    answer = await gateway.client.post("/v1/admin/pauses", json=what, headers=ADMIN)
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, field)
    assert await paused(gateway) == []


async def test_a_tenant_that_is_not_there_cannot_be_paused(gateway: Running) -> None:
    what = {"scope": "tenant", "name": str(uuid4()), **WHY}
    assert (await gateway.client.post("/v1/admin/pauses", json=what, headers=ADMIN)).status_code == 404
    tenant = await gateway.tenant()
    what["name"] = str(tenant.id).upper()
    assert (await gateway.client.post("/v1/admin/pauses", json=what, headers=ADMIN)).json()["name"] == str(tenant.id)
    assert (await gateway.client.post("/v1/admin/pauses/resume", json=what, headers=ADMIN)).status_code == 204


async def test_only_an_operator_may(gateway: Running) -> None:
    tenant = await gateway.tenant()
    for headers in ({}, tenant.headers):
        assert (await gateway.client.get("/v1/admin/pauses", headers=headers)).status_code == 401
        body = {"scope": "everything", **WHY}
        assert (await gateway.client.post("/v1/admin/pauses", json=body, headers=headers)).status_code == 401


async def test_nobody_changes_the_log(gateway: Running) -> None:
    for statement in ("DELETE FROM runtime.pause_log", "UPDATE runtime.pause_log SET reason = ''"):
        with pytest.raises(asyncpg.RaiseError, match="append-only"):
            await gateway.database.execute(statement)
