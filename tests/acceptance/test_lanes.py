"""Lanes as a whole: slots that are guaranteed and lent, fairness within a lane, and a pool that serves one lane."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest

from tests.acceptance.operating import held_back, lane
from tests.acceptance.runs import all_ended, begun_in_order, running_by_tier, runs, runs_by_tier
from tests.acceptance.stack import SERVICES, Stack, running
from tests.acceptance.tasks import cancel_many, ended, submit, submit_many
from tests.acceptance.tenants import new_tenant
from tests.servers import Servers
from tests.stage import eventually, staged

pytestmark = [pytest.mark.timeout(300)]
SLOTS = 8  # 2, 1 and 1 of them guaranteed
WITHOUT_END = "[[sim tokens=1000 tps=5]]"
SHORT = "[[sim tokens=1 ttft=0.02]]"


@pytest.fixture(scope="module")
def stack(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One worker with few slots; the other is for enterprise alone, and not started yet."""
    settings = {
        "agent-worker-1": {"LANEWAY_SLOTS": str(SLOTS)},
        "agent-worker-2": {"LANEWAY_SLOTS": "4", "LANEWAY_LANES": "enterprise"},
    }
    services = [name for name in SERVICES if name != "agent-worker-2"]
    with (
        staged(servers) as stage,
        running(stage, tmp_path_factory.mktemp("lanes"), services, settings) as stack,
    ):
        yield stack


async def test_idle_slots_are_lent_and_no_guarantee_ever_waits_for_them(stack: Stack) -> None:
    async with stack.client("free") as free, stack.client("enterprise") as enterprise:
        flood = await submit_many(free, [f"Flood {n} {WITHOUT_END}" for n in range(200)])
        await runs_by_tier(stack, free=SLOTS)
        # Every slot is taken, by a run that goes on for minutes.
        task = await submit(enterprise, "At once [[sim tokens=2]]")
        assert (await ended(enterprise, task["id"]))["status"] == "completed"
        assert await running_by_tier(stack) == {"free": SLOTS}
        assert len(await runs(stack, flood)) == SLOTS, "the others of the flood still wait"
        await submit_many(enterprise, [f"More {n} {WITHOUT_END}" for n in range(10)])

        async def both() -> bool:
            running = await running_by_tier(stack)
            return running["free"] == SLOTS and running.get("enterprise", 0) >= 2

        await eventually(both, 30)

        async def given_back() -> bool:
            """What was lent to free goes to the tier that is furthest below its weight, as the loans' runs end."""
            running = await running_by_tier(stack)
            if running["enterprise"] >= SLOTS - 1 and running.get("free") == 1:
                return True
            await cancel_many(free, status="running")
            return False

        await eventually(given_back, 60)
        await cancel_many(enterprise)
        await runs_by_tier(stack, free=SLOTS)
        await cancel_many(free)
        assert {run["status"] for run in await all_ended(stack, flood)} == {"cancelled"}


async def test_a_tenant_that_floods_its_lane_keeps_no_other_waiting_and_each_is_told_its_place(stack: Stack) -> None:
    for name in ("flooding", "quiet"):
        await new_tenant(stack, name, "pro")
    async with stack.client("flooding") as flooding, stack.client("quiet") as quiet:
        paced = await submit(quiet, f"Paced {SHORT}")
        await ended(quiet, paced["id"])
        async with held_back(stack, "pro"):
            flood = await submit_many(flooding, [f"Flood {n} {SHORT}" for n in range(200)])
            task = await submit(quiet, f"Mine {SHORT}")

            async def last_of_the_flood() -> dict[str, Any]:  # once all that go before it are recorded
                shown: dict[str, Any] = (await flooding.get(f"/v1/tasks/{flood[-1]}")).json()
                return shown if (shown.get("position") or 0) >= 190 else {}

            later = await eventually(last_of_the_flood, 30)
            assert later["position"] <= 200
            waiting = (await quiet.get(f"/v1/tasks/{task['id']}")).json()
            assert (waiting["status"], later["status"]) == ("queued", "queued")
            assert waiting["position"] <= 2
            # Reckoned by what began in the last minute, which is one task.
            estimates = [datetime.fromisoformat(one["estimated_start"]) for one in (waiting, later)]
            assert datetime.fromisoformat(task["created_at"]) < estimates[0] < estimates[1]
        order = await begun_in_order(stack, [*flood, task["id"]])
        # Of those that begin together, the record's order is any.
        assert order.index(task["id"]) < 2 * SLOTS
        finished = await ended(quiet, task["id"])
    assert (finished["position"], finished["estimated_start"]) == (None, None)


async def test_a_priority_orders_a_tenants_own_work_and_goes_before_nobody_elses(stack: Stack) -> None:
    for name in ("pressing", "patient"):
        await new_tenant(stack, name, "pro")
    async with stack.client("pressing") as pressing, stack.client("patient") as patient, held_back(stack, "pro"):
        low = await submit_many(pressing, [f"Low {n} {SHORT}" for n in range(50)], priority=0)
        high = await submit_many(pressing, [f"High {n} {SHORT}" for n in range(20)], priority=9)
        other = (await submit(patient, f"Other {SHORT}", priority=0))["id"]
    order = await begun_in_order(stack, [*low, *high, other])
    place = {task: number for number, task in enumerate(order)}
    # Twenty of the high ones stand for as many of the low ones: what was submitted after so many has a lower level.
    assert max(place[task] for task in high) < min(place[task] for task in low[40:])
    assert place[other] < min(place[task] for task in high[10:])


async def test_a_pool_for_enterprise_runs_nothing_of_free(stack: Stack) -> None:
    """Runs last in this file: it starts the second worker."""
    stack.terminate("agent-worker-1")
    stack.start("agent-worker-2")
    async with stack.client("free") as free, stack.client("enterprise") as enterprise:
        waiting = await submit_many(free, [f"Waits {n} {SHORT}" for n in range(10)])
        served = await submit_many(enterprise, [f"Served {n} {SHORT}" for n in range(10)])
        ran = await all_ended(stack, served)
        assert {(run["status"], run["worker"].endswith(f"-{stack.pid('agent-worker-2')}")) for run in ran} == {
            ("completed", True)
        }

        async def deserted() -> bool:
            found = await lane(stack, "free")
            return (found["queued"], found["consumers"], found["slots"], found["unserved"]) == (10, 0, 0, True)

        await eventually(deserted, 30)
        assert (await lane(stack, "enterprise"))["slots"] == 4
        assert await runs(stack, waiting) == []
        stack.start("agent-worker-1")
        stack.until_ready()
        ran = await all_ended(stack, waiting)
    assert {(run["status"], run["worker"].endswith(f"-{stack.pid('agent-worker-1')}")) for run in ran} == {
        ("completed", True)
    }
