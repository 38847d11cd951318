from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection
from uuid import UUID

import pytest

from agent_worker.pauses import PauseKeeper, killer, paused_tiers
from agent_worker.repository import Obstacle, Pause
from common.contracts import PausesChanged, TaskSubmitted
from common.contracts.base import now
from common.contracts.tasks import InputMessage
from common.errors import BrokerUnavailable, StoreUnavailable
from common.lifecycle import stop
from tests.stage import eventually

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

    async def halt(self) -> None:
        if self.away:
            raise BrokerUnavailable("away")
        self.halted = True

    async def go_on(self) -> None:
        if self.away:
            raise BrokerUnavailable("away")
        self.halted = False


class Scene:
    """A keeper, and what it does."""

    def __init__(self) -> None:
        self.now: frozenset[Pause] = frozenset()
        self.away = False
        self.lanes = {tier: Lane() for tier in TIERS}
        self.unlent: Collection[str] = ()
        self.stopped: list[bool] = []
        self.keeper = PauseKeeper(self, self.lanes, self._lend_nothing_to, self._park)

    async def pauses(self) -> frozenset[Pause]:
        if self.away:
            raise StoreUnavailable("away")
        return self.now

    def _lend_nothing_to(self, tiers: Collection[str]) -> None:
        self.unlent = tiers

    def _park(self, obstacle: Callable[[TaskSubmitted], Obstacle | None]) -> None:
        self.stopped.append(obstacle(TASK) is not None)

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
    running = asyncio.create_task(made.keeper.run())
    yield made
    await stop(running)


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
