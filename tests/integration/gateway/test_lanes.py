"""What the lanes tell: how long they are, who serves them, also after one was killed; and each task's place."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
import yaml
from prometheus_client import REGISTRY

from common.contracts import TaskSubmitted
from common.messaging.connection import Broker
from common.messaging.consumer import consuming
from common.messaging.settlement import Disposition, RabbitDelivery
from common.messaging.topology import AGENT_WORKER, lane
from gateway.lane_records import Queue, Runs
from gateway.lanes import Snapshot
from gateway.metrics import Metrics
from tests.integration.gateway.batching import questions, recorded, recording, submit
from tests.integration.gateway.conftest import ADMIN_KEY, Running, running
from tests.servers import Servers
from tests.stage import eventually, staged

_ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}
_PAUSED = {"paused": 1.0, "unserved": 0.0, "work": 2.0}
_ALERTS = Path(__file__).parents[3] / "deploy" / "prometheus" / "alerts.yaml"


@pytest.fixture
async def quiet(servers: Servers) -> AsyncIterator[Running]:
    """A gateway and a persister whose lanes no other test uses."""
    with staged(servers) as stage:
        async with recording(stage), running(stage) as gateway:
            yield gateway


async def _lanes(gateway: Running) -> dict[str, dict[str, Any]]:
    response = await gateway.client.get("/v1/admin/lanes", headers=_ADMIN)
    assert response.status_code == 200, response.text
    return {one["tier"]: one for one in response.json()["items"]}


async def _until(gateway: Running, tier: str, **numbers: Any) -> dict[str, Any]:
    """The lane, once it has these numbers: the broker's own come late."""

    async def there() -> dict[str, Any]:
        found = (await _lanes(gateway))[tier]
        return found if numbers.items() <= found.items() else {}

    return await eventually(there, 30)


async def _report(gateway: Running, worker: str, slots: int, **free: int) -> None:
    """As a worker does, again and again: it is heard of for as long as a test may take."""
    await gateway.database.execute("SELECT runtime.report_worker($1, $2, $3)", worker, slots, json.dumps(free))
    await gateway.database.execute(
        "UPDATE runtime.workers SET seen_at = seen_at + interval '1 hour' WHERE worker = $1", worker
    )


async def test_a_lane_that_nobody_serves_takes_work_and_says_so(quiet: Running) -> None:
    assert [one["unserved"] for one in (await _lanes(quiet)).values()] == [False] * 3, "no work needs no worker"
    tenant = await quiet.tenant("free")
    batch = (await submit(quiet, tenant, questions(7))).json()
    assert batch["complete"]
    await recorded(quiet, batch)
    found = await _until(quiet, "free", queued=7, ready=7, consumers=0, unserved=True)
    assert (found["lane"], found["work"], found["running"], found["slots"]) == (lane("free"), 7, 0, 0)
    assert found["oldest_seconds"] > 0
    numbers = {("unserved", "free"): 1.0, ("work", "free"): 7.0, ("unserved", "pro"): 0.0}
    lines = {f'laneway_lane_{name}{{lane="{lane(tier)}"}} {value}' for (name, tier), value in numbers.items()}

    async def in_metrics() -> bool:
        return lines <= set((await quiet.client.get("/metrics")).text.splitlines())

    await eventually(in_metrics)
    async with (
        Broker(quiet.stage.rabbit(AGENT_WORKER), "test") as broker,
        consuming(broker, lane("free"), prefetch=1, on_delivery=lambda _: None),
    ):
        await _until(quiet, "free", consumers=1, unserved=False, workers=0)


@pytest.mark.parametrize("scope", ["tier", "everything"])
async def test_a_paused_lane_is_served_by_those_who_leave_it_alone(quiet: Running, scope: str) -> None:
    tenant = await quiet.tenant("free")
    await recorded(quiet, (await submit(quiet, tenant, questions(2))).json())
    await _until(quiet, "free", ready=2, consumers=0, paused=False, unserved=True)
    about = {"scope": scope, "name": "free" if scope == "tier" else None, "by": "ada", "reason": "a test"}
    await quiet.client.post("/v1/admin/pauses", json=about, headers=_ADMIN)
    await _until(quiet, "free", work=2, workers=0, paused=True, unserved=True)
    await _report(quiet, "a", 4, free=0)
    await _until(quiet, "free", work=2, workers=1, consumers=0, paused=True, unserved=False)
    await _until(quiet, "pro", paused=scope == "everything", unserved=False)
    lines = {f'laneway_lane_{name}{{lane="{lane("free")}"}} {value}' for name, value in _PAUSED.items()}

    async def in_metrics() -> bool:
        return lines <= set((await quiet.client.get("/metrics")).text.splitlines())

    await eventually(in_metrics, 30)
    await quiet.client.post("/v1/admin/pauses/resume", json=about, headers=_ADMIN)
    # It is open again, and who reports it takes nothing from it.
    await _until(quiet, "free", work=2, workers=1, consumers=0, paused=False, unserved=True)


async def test_the_pause_of_a_tenant_or_an_agent_pauses_no_lane(quiet: Running) -> None:
    tenant = await quiet.tenant("free")
    for scope, name in (("tenant", str(tenant.id)), ("agent", "default"), ("tier", "pro")):
        about = {"scope": scope, "name": name, "by": "ada", "reason": "a test"}
        assert (await quiet.client.post("/v1/admin/pauses", json=about, headers=_ADMIN)).status_code == 200

    async def seen() -> dict[str, bool]:
        paused = {tier: one["paused"] for tier, one in (await _lanes(quiet)).items()}
        return paused if any(paused.values()) else {}

    assert await eventually(seen, 30) == {"enterprise": False, "pro": True, "free": False}


async def test_slots_are_added_up_over_the_workers_that_are_there(quiet: Running) -> None:
    await _report(quiet, "a", 10, enterprise=5, pro=5, free=5)
    await _report(quiet, "b", 4, free=2)
    await _until(quiet, "free", workers=2, slots=14, slots_free=7)
    await _until(quiet, "pro", workers=1, slots=10, slots_free=5)
    await _report(quiet, "a", 10, enterprise=3, pro=0, free=1)
    await _until(quiet, "enterprise", slots=10, slots_free=3)
    await _until(quiet, "pro", slots=10, slots_free=0)


async def test_a_worker_that_was_killed_is_counted_no_more(quiet: Running) -> None:
    await _report(quiet, "killed", 10, pro=5)
    await _until(quiet, "pro", workers=1, slots=10, slots_free=5)
    # It says nothing any more, and time goes on.
    await quiet.database.execute("UPDATE runtime.workers SET seen_at = now() - interval '8 seconds'")
    await _until(quiet, "pro", workers=0, slots=0, slots_free=0)


async def test_runs_are_told_apart(quiet: Running) -> None:
    tenant = await quiet.tenant("pro")
    batch = (await submit(quiet, tenant, questions(5))).json()
    await recorded(quiet, batch)
    acquire = "SELECT runtime.acquire($1, $2, 'pro', 'w', interval '1 minute')"
    for place in (0, 1, 2):
        await quiet.database.execute(acquire, UUID(batch["tasks"][place]["id"]), tenant.id)
    parked = "UPDATE runtime.runs SET status = 'parked' WHERE task_id = $1"
    await quiet.database.execute(parked, UUID(batch["tasks"][1]["id"]))
    found = await _until(quiet, "pro", queued=2, running=2, parked=1, parked_ready=0, work=4)
    assert found["starts_per_second"] > 0


async def test_what_waits_for_its_time_is_no_work_until_it_is_woken(quiet: Running) -> None:
    tenant, later = await quiet.tenant("pro"), datetime.now(UTC) + timedelta(days=30)
    batch = (await submit(quiet, tenant, questions(3, not_before=later.isoformat()))).json()
    await recorded(quiet, batch)
    tasks = [UUID(task["id"]) for task in batch["tasks"]]
    await _until(quiet, "pro", queued=3, work=3, ready=3)
    await _park(quiet, 3)
    long_ago = "UPDATE history.tasks SET submitted_at = submitted_at - interval '30 days' WHERE task_id = ANY ($1)"
    await quiet.database.execute(long_ago, tasks)
    await _until(
        quiet, "pro", parked=3, parked_ready=0, work=0, oldest_seconds=0.0, ready=0, consumers=0, unserved=False
    )
    due = "UPDATE runtime.parked SET wake_at = now() WHERE task_id = $1"
    await quiet.database.execute(due, tasks[0])
    # Its message is in the lane again, where the broker counts it: it is one task all the same.
    found = await _until(quiet, "pro", queued=0, parked=3, parked_ready=1, work=1, ready=1, unserved=True)
    assert 0 <= found["oldest_seconds"] < timedelta(days=1).total_seconds(), "no worker could have taken it before"
    acquire = "SELECT decision FROM runtime.acquire($1, $2, 'pro', 'w', interval '1 hour')"
    assert await quiet.database.fetchval(acquire, tasks[0], tenant.id) == "acquired"
    # As if it had begun long ago, too, and been parked ever since.
    aged = "UPDATE runtime.runs SET started_at = started_at - $2::interval, parked_seconds = $3 WHERE task_id = $1"
    month = timedelta(days=30)
    await quiet.database.execute(aged, tasks[0], month, month.total_seconds())
    found = await _until(quiet, "pro", running=1, parked=2, parked_ready=0, work=1)
    assert 0 <= found["oldest_seconds"] < timedelta(days=1).total_seconds()
    await quiet.database.execute(aged, tasks[0], timedelta(hours=2), month.total_seconds())

    async def runs_for_hours() -> bool:
        return bool((await _lanes(quiet))["pro"]["oldest_seconds"] >= timedelta(hours=2).total_seconds())

    await eventually(runs_for_hours, 30)


async def _park(gateway: Running, count: int) -> None:
    """As a worker does with what may not begin yet."""
    arrived: asyncio.Queue[RabbitDelivery] = asyncio.Queue()
    acquire = "SELECT decision FROM runtime.acquire($1, $2, 'pro', 'w', interval '1 minute', NULL, $3)"
    async with (
        Broker(gateway.stage.rabbit(AGENT_WORKER), "test") as broker,
        consuming(broker, lane("pro"), prefetch=count, on_delivery=arrived.put_nowait),
        asyncio.timeout(30),
    ):
        for _ in range(count):
            delivery = await arrived.get()
            task = delivery.decode()
            assert isinstance(task, TaskSubmitted)
            assert await gateway.database.fetchval(acquire, task.task_id, task.tenant_id, task.encode()) == "parked"
            assert await delivery.settle(Disposition.DONE)


async def test_one_gateway_shows_the_numbers_for_all(quiet: Running) -> None:
    async def showing(gateway: Running) -> bool:
        return "laneway_lane_work{" in (await gateway.client.get("/metrics")).text

    async def shown() -> bool:
        return await showing(quiet)

    await eventually(shown)
    async with running(quiet.stage) as second:
        assert not await showing(second)
        await quiet.database.execute("UPDATE runtime.lane_watch SET process = $1", uuid4())
        await quiet.database.execute("UPDATE runtime.lane_watch SET until = now() - interval '1 second'")

        async def one_of_them() -> bool:
            return await showing(quiet) != await showing(second)

        await eventually(one_of_them)


async def test_a_place_goes_down_as_the_lane_drains(quiet: Running) -> None:
    tenant = await quiet.tenant("pro")
    batch = (await submit(quiet, tenant, questions(30))).json()
    await recorded(quiet, batch)
    last = batch["tasks"][-1]["id"]

    async def turn() -> dict[str, Any]:
        response = await quiet.client.get(f"/v1/tasks/{last}", headers=tenant.headers)
        document: dict[str, Any] = response.json()
        return document

    async def placed() -> dict[str, Any]:
        found = await turn()
        return found if found["position"] else {}

    first = await eventually(placed)
    assert first["position"] == 29
    assert first["estimated_start"] is None, "nothing has begun: there is no pace to reckon with"
    places = [first["position"]]
    for task in batch["tasks"][:20]:
        await quiet.database.execute(
            "SELECT runtime.acquire($1, $2, 'pro', 'w', interval '1 minute')", UUID(task["id"]), tenant.id
        )

    async def further() -> bool:
        places.append((await turn())["position"])
        return bool(places[-1] < places[0])

    await eventually(further)
    assert places == sorted(places, reverse=True)
    estimated = datetime.fromisoformat((await turn())["estimated_start"])
    assert datetime.now(UTC) < estimated < datetime.now(UTC) + timedelta(minutes=10)
    begun = await quiet.client.get(f"/v1/tasks/{batch['tasks'][0]['id']}", headers=tenant.headers)
    assert (begun.json()["position"], begun.json()["estimated_start"]) == (None, None)


async def test_lanes_are_for_operators_only(gateway: Running) -> None:
    tenant = await gateway.tenant()
    assert (await gateway.client.get("/v1/admin/lanes", headers=tenant.headers)).status_code == 401


def _at(seconds: float) -> datetime:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)


@pytest.mark.parametrize("queued", [1, 2, 99, 100, 101, 777, 12_345])
def test_a_place_is_right_to_a_hundredth(queued: int) -> None:
    hundredths = tuple(_at(max(0, -(-n * queued // 100) - 1)) for n in range(101))
    snapshot = Snapshot(_at(queued), (Queue("pro", 25, queued, hundredths), Queue("pro", 28, 5, hundredths)))
    for rank in {0, 1, queued // 3, queued // 2, queued - 1} & set(range(queued)):
        told = snapshot.position("pro", 25, _at(rank)) - 5
        assert abs(told - rank) <= queued / 100
    assert snapshot.position("pro", 30, _at(0)) == 0
    assert snapshot.position("free", 0, _at(0)) == 0


def test_the_pace_is_that_of_the_time_in_which_work_began() -> None:
    runs = Runs("pro", starts=10, starting_since=_at(55))
    snapshot = Snapshot(_at(60), (), (runs,))
    assert snapshot.rate("pro") == 2
    assert snapshot.rate("free") is None


def test_every_alert_is_on_a_number_that_is_shown() -> None:
    metrics = Metrics()
    names = {metric.name for registry in (metrics.registry, REGISTRY) for metric in registry.collect()}
    groups = yaml.safe_load(_ALERTS.read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["alert"] for rule in rules} >= {"LanewayLaneUnserved"}
    for rule in rules:
        if rule["alert"] in ("LanewayLaneUnserved", "LanewayLaneOld"):
            assert rule["expr"].endswith(" unless max by (lane) (laneway_lane_paused) == 1"), "who paused it knows"
        used = {word for word in names if word in rule["expr"]}
        assert used, rule["expr"]
        assert rule["annotations"]["summary"]
        assert rule["labels"]["severity"] in {"page", "ticket"}
