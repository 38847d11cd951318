"""When a server is away: an answer within three seconds, red readiness, and recovery without a restart."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest
from pamqp import commands as spec
from pamqp.frame import marshal

from common.admission import outstanding_key
from common.redis import Client
from gateway import principals
from tests.integration.gateway.conftest import Fragile, Tap, Tenant
from tests.stage import eventually

_LIMIT_SECONDS = 3.0


async def _timed(fragile: Fragile, tenant: Tenant, key: str | None = None) -> tuple[int, float]:
    began = time.monotonic()
    response = await fragile.gateway.submit(tenant, key=key)
    if response.status_code == 503:
        assert response.headers["content-type"] == "application/problem+json"
        assert int(response.headers["Retry-After"]) > 0
    return response.status_code, time.monotonic() - began


@pytest.mark.parametrize("how", ["cut", "hang"])
@pytest.mark.parametrize("names", ["rabbit", "rabbit+postgres", "rabbit+postgres+redis"])
async def test_without_the_broker_nothing_is_accepted_until_it_is_back(
    fragile: Fragile, state: Client, names: str, how: str
) -> None:
    tenant = await fragile.gateway.tenant()
    assert (await _timed(fragile, tenant))[0] == 202
    for relay in fragile.relays(names):
        getattr(relay, how)()
    for key in (None, f"order-{uuid4()}"):
        status, took = await _timed(fragile, tenant, key)
        assert status == 503
        assert took < _LIMIT_SECONDS
    if how == "cut":
        assert await fragile.readiness() == 503
    for relay in fragile.relays(names):
        relay.restore()

    async def accepts() -> bool:
        return (await _timed(fragile, tenant))[0] == 202

    await eventually(accepts, 30)

    async def ready() -> bool:
        return await fragile.readiness() == 200

    await eventually(ready, 30)
    if "redis" not in names:
        # One before, one after, perhaps some that were accepted on the way: none that was refused.
        counted = await state.zcard(outstanding_key(tenant.id, 5))
        accepted = (await fragile.gateway.client.get("/metrics")).text
        assert f'laneway_http_requests_total{{route="/v1/tasks",status="202"}} {float(counted)}' in accepted


async def test_while_the_broker_has_an_alarm_submissions_are_refused_at_once(fragile: Fragile) -> None:
    tenant = await fragile.gateway.tenant()
    fragile.rabbit.say(marshal(spec.Connection.Blocked(reason="low on memory"), 0))

    async def red() -> bool:
        return await fragile.readiness() == 503

    await eventually(red)
    status, took = await _timed(fragile, tenant)
    assert status == 503
    assert took < 1
    assert "Nothing was accepted" in (await fragile.gateway.submit(tenant)).json()["detail"]
    fragile.rabbit.say(marshal(spec.Connection.Unblocked(), 0))

    async def green() -> bool:
        return await fragile.readiness() == 200

    await eventually(green)
    assert (await _timed(fragile, tenant))[0] == 202


async def test_one_deadline_is_around_all_that_is_waited_for(fragile: Fragile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(principals, "_KNOWN_SECONDS", 0.0)
    tenant = await fragile.gateway.tenant()
    assert (await _timed(fragile, tenant))[0] == 202
    for relay in fragile.relays("rabbit+postgres"):
        relay.hang()
    status, took = await _timed(fragile, tenant, f"order-{uuid4()}")
    assert status == 503
    assert took < _LIMIT_SECONDS


async def test_a_503_says_no_more_than_is_known(fragile: Fragile) -> None:
    tenant, stranger = await fragile.gateway.tenant(), await fragile.gateway.tenant()
    task = (await fragile.gateway.submit(tenant)).json()
    fragile.rabbit.hang()
    unknown = await fragile.gateway.submit(tenant)
    assert "may have been accepted" in unknown.json()["detail"]
    fragile.postgres.hang()
    assert "Nothing was accepted" in (await fragile.gateway.submit(stranger)).json()["detail"]
    cancel = await fragile.gateway.client.post(task["links"]["cancel"], headers=tenant.headers)
    assert (cancel.status_code, "cancel may have been taken" in cancel.json()["detail"]) == (503, True)
    read = await fragile.gateway.client.get(task["links"]["self"], headers=tenant.headers)
    assert (read.status_code, read.json()["detail"]) == (503, "A server did not answer in time.")
    fragile.rabbit.cut()

    async def noticed() -> bool:
        return (
            await fragile.readiness() == 503
            and "Nothing was accepted" in (await fragile.gateway.submit(tenant)).json()["detail"]
        )

    await eventually(noticed)


@pytest.mark.parametrize("how", ["cut", "hang"])
async def test_without_the_database_the_known_go_on_and_the_unknown_are_told(fragile: Fragile, how: str) -> None:
    tenant = await fragile.gateway.tenant()
    stranger = await fragile.gateway.tenant()
    assert (await _timed(fragile, tenant))[0] == 202
    getattr(fragile.postgres, how)()
    assert (await _timed(fragile, tenant))[0] == 202
    status, took = await _timed(fragile, tenant, f"order-{uuid4()}")
    assert status == 202, "Redis has no record of the key, and had none to lose"
    assert took < _LIMIT_SECONDS
    status, took = await _timed(fragile, stranger)
    assert status == 503
    assert took < _LIMIT_SECONDS
    began = time.monotonic()
    assert (await fragile.gateway.client.get(f"/v1/tasks/{uuid4()}", headers=tenant.headers)).status_code == 503
    assert time.monotonic() - began < _LIMIT_SECONDS
    assert await fragile.readiness() == 503
    assert (await fragile.gateway.client.get("/health/live")).status_code == 200
    fragile.postgres.restore()

    async def well() -> bool:
        return await fragile.readiness() == 200 and (await _timed(fragile, stranger))[0] == 202

    await eventually(well, 30)


@pytest.mark.parametrize("how", ["cut", "hang"])
async def test_without_redis_tasks_are_accepted_at_a_neutral_level(fragile: Fragile, tap: Tap, how: str) -> None:
    tenant = await fragile.gateway.tenant()
    key = f"order-{uuid4()}"
    assert (await fragile.gateway.submit(tenant, key=key)).status_code == 202
    getattr(fragile.redis, how)()
    response = await fragile.gateway.submit(tenant)
    assert response.status_code == 202
    assert [message.priority for message in await tap.messages(response.json()["id"])] == [15]
    again = await fragile.gateway.submit(tenant, key=key)
    assert again.status_code == 202, "the same task again, which changes nothing"
    assert len(await tap.messages(again.json()["id"], 2)) == 2
    assert await fragile.readiness() == 200
    fragile.redis.restore()

    async def counted_again() -> bool:
        made = await fragile.gateway.submit(tenant)
        return (await tap.messages(made.json()["id"]))[0].priority != 15

    await eventually(counted_again, 30)
