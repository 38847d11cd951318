from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from agent_worker.obstacles import Obstacle, Pause
from agent_worker.pauses import Gate, PauseKeeper, killer, paused_tiers
from common.contracts import PausesChanged, TaskSubmitted
from common.contracts.base import now
from common.contracts.tasks import InputMessage
from common.errors import BrokerUnavailable, StoreUnavailable
from common.lifecycle import stop
from tests.stage import eventually
from tests.unit.agent_worker.virtual_time import in_virtual_time

TIERS = ("enterprise", "pro", "free")
TASK = TaskSubmitted(
    task_id=UUID(int=1), tenant_id=UUID(int=2), tier="free", level=1, priority=5, agent="default",
    input=(InputMessage(role="user", content="x"),), request_hash="", submitted_at=now(),
)  # fmt: skip


@pytest.mark.parametrize(
    ("pause", "tiers"),
    [
        (Pause("everything", "", kill=False), set(TIERS)),
        (Pause("tier", "free", kill=True), {"free"}),
        (Pause("tier", "gold", kill=False), set()),  # a tier that this worker does not serve
        (Pause("tenant", str(TASK.tenant_id), kill=False), set()),
        (Pause("agent", "default", kill=False), set()),
    ],
)
def test_whole_lanes_are_left_alone(pause: Pause, tiers: set[str]) -> None:
    assert paused_tiers([pause], TIERS) == tiers


@pytest.mark.parametrize(
    ("scope", "name", "other"),
    [
        ("everything", "", None),
        ("tier", "free", "pro"),
        ("tenant", str(TASK.tenant_id), str(TASK.task_id)),
        ("agent", "default", "analyst"),
    ],
)
def test_a_kill_stops_what_it_names_and_a_pause_nothing(scope: str, name: str, other: str | None) -> None:
    assert killer([Pause(scope, name, kill=True)], TASK) == Obstacle("paused", f"{scope}:{name}")
    assert killer([Pause(scope, name, kill=False)], TASK) is None
    assert other is None or killer([Pause(scope, other, kill=True)], TASK) is None


class Lane:
    """A consumer that counts."""

    def __init__(self) -> None:
        self.halted = False
        self.away = False
        self.changes: list[str] = []
        self.answering = asyncio.Event()
        self.answering.set()

    async def halt(self) -> None:
        await self._asked("halt")
        self.halted = True

    async def go_on(self) -> None:
        await self._asked("go on")
        self.halted = False

    async def _asked(self, change: str) -> None:
        self.changes.append(change)
        await self.answering.wait()
        if self.away:
            raise BrokerUnavailable("away")

    def was_asked(self, *changes: str) -> Callable[[], Awaitable[bool]]:
        async def asked() -> bool:
            return self.changes == list(changes)

        return asked


class Scene:
    """A keeper, and what it does. PostgreSQL takes so many seconds to answer."""

    def __init__(self) -> None:
        self.now: frozenset[Pause] = frozenset()
        self.away = False
        self.store_seconds = 0.0
        self.killed = asyncio.Event()
        self.lanes = {tier: Lane() for tier in TIERS}
        self.unlent: Collection[str] = ()
        self.stopped: list[bool] = []
        self.gates = {tier: Gate(lane) for tier, lane in self.lanes.items()}
        self.keeper = PauseKeeper(self, self.gates, self._lend_nothing_to, self._park)

    @asynccontextmanager
    async def playing(self) -> AsyncIterator[None]:
        gates = [asyncio.create_task(gate.run()) for gate in self.gates.values()]
        tasks = [asyncio.create_task(self.keeper.run()), *gates]
        yield
        await stop(*tasks)

    async def pauses(self) -> frozenset[Pause]:
        if self.away:
            raise StoreUnavailable("away")
        seen = self.now
        await asyncio.sleep(self.store_seconds)
        return seen

    def _lend_nothing_to(self, tiers: Collection[str]) -> None:
        self.unlent = tiers

    def _park(self, obstacle: Callable[[TaskSubmitted], Obstacle | None]) -> None:
        self.stopped.append(obstacle(TASK) is not None)
        if self.stopped[-1]:
            self.killed.set()

    def set(self, *pauses: Pause, bell: bool = True) -> None:
        self.now = frozenset(pauses)
        if bell:
            self.keeper.hear(PausesChanged())

    async def leaves_alone(self, *tiers: str) -> None:
        async def as_wanted() -> bool:
            return {tier for tier, lane in self.lanes.items() if lane.halted} == set(tiers) == set(self.unlent)

        await eventually(as_wanted)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    made = Scene()
    async with made.playing():
        yield made


async def test_it_carries_out_what_it_hears_and_takes_it_back(scene: Scene) -> None:
    scene.set(Pause("tier", "free", kill=True))
    await scene.leaves_alone("free")
    assert any(scene.stopped)
    scene.set(Pause("everything", "", kill=False))
    await scene.leaves_alone(*TIERS)
    assert not scene.stopped[-1]
    scene.set()
    await scene.leaves_alone()


async def test_it_finds_out_without_a_bell(scene: Scene) -> None:
    scene.set(Pause("tier", "pro", kill=False), bell=False)
    await scene.leaves_alone("pro")


async def test_servers_that_are_away_are_tried_again_and_what_was_last_known_holds(scene: Scene) -> None:
    scene.set(Pause("tier", "pro", kill=False))
    await scene.leaves_alone("pro")
    scene.away = True
    scene.set(bell=True)
    scene.lanes["pro"].away = True
    await scene.leaves_alone("pro")
    scene.away = False
    scene.keeper.hear(PausesChanged())

    async def lent_again() -> bool:
        return not scene.unlent

    await eventually(lent_again)
    assert scene.lanes["pro"].halted
    scene.lanes["pro"].away = False
    await scene.leaves_alone()


async def test_a_broker_that_says_nothing_keeps_no_kill_waiting(scene: Scene) -> None:
    lane = scene.lanes["pro"]
    lane.answering.clear()
    scene.set(Pause("tier", "pro", kill=False))
    await eventually(lane.was_asked("halt"))
    scene.set(Pause("everything", "", kill=True))
    async with asyncio.timeout(15):
        await scene.killed.wait()
    assert not lane.halted
    lane.answering.set()
    await scene.leaves_alone(*TIERS)


async def test_what_is_wanted_last_is_done_when_the_broker_answers_at_last(scene: Scene) -> None:
    lane = scene.lanes["pro"]
    lane.answering.clear()
    scene.set(Pause("tier", "pro", kill=False))
    await eventually(lane.was_asked("halt"))
    scene.set(Pause("tier", "free", kill=False))
    await scene.leaves_alone("free")
    lane.answering.set()
    await eventually(lane.was_asked("halt", "go on"))
    await scene.leaves_alone("free")


async def seconds_until_killed(*, begun: float, bell: bool, store: float, broker: bool) -> float:
    """By the loop's clock, of a kill that is set so many seconds after the keeper began."""
    scene, clock = Scene(), asyncio.get_running_loop()
    scene.store_seconds = store
    for lane in scene.lanes.values():
        if not broker:
            lane.answering.clear()
    scene.set(Pause("tier", "pro", kill=False), bell=False)
    async with scene.playing():
        await asyncio.sleep(begun)
        scene.set(Pause("everything", "", kill=True), bell=bell)
        since = clock.time()
        await scene.killed.wait()
        return clock.time() - since


@pytest.mark.parametrize("broker", [True, False])
@pytest.mark.parametrize("begun", [0.0, 0.05, 0.3, 0.749, 0.751, 0.8, 1.0, 7.0])
def test_a_kill_is_in_force_at_once_and_within_a_second_where_its_bell_is_lost(begun: float, broker: bool) -> None:
    """What a worker waits for by itself; PostgreSQL may answer in 0.12 s, and just have answered for the last time."""
    slow = 0.12
    assert in_virtual_time(seconds_until_killed(begun=begun, bell=True, store=0.0, broker=broker)) == 0
    assert in_virtual_time(seconds_until_killed(begun=begun, bell=True, store=slow, broker=broker)) <= 2 * slow + 1e-6
    assert in_virtual_time(seconds_until_killed(begun=begun, bell=False, store=0.0, broker=broker)) <= 0.75 + 1e-6
    assert in_virtual_time(seconds_until_killed(begun=begun, bell=False, store=slow, broker=broker)) <= 1
