"""The short form of `make chaos`: at points of a run its worker is killed, or stands still, and another goes on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.matrix import Grounds, Point, grounds, spread
from tests.servers import Servers

pytestmark = [pytest.mark.timeout(1800)]
POINTS = 8
STANDS = 4
NEVER = Point(0, "before")


@pytest.fixture
def made(servers: Servers, tmp_path: Path) -> Iterator[Grounds]:
    with grounds(servers, tmp_path) as made:
        yield made


async def test_a_run_is_finished_wherever_its_worker_is_killed(made: Grounds) -> None:
    async with made.stack.client() as client:
        whole = [await made.strike(client, NEVER) for _ in range(2)]
        assert [(one.died, one.unknown, one.wrong) for one in whole] == [(False, 0, [])] * 2
        # How often a run waits differs by what its worker has done before, and by how the answers arrive.
        suspensions = min(one.suspensions or 0 for one in whole)
        points = [*spread(suspensions, POINTS), *spread(suspensions, STANDS, "stands")]
        found = [await made.strike(client, point) for point in points]
    assert [what for one in found for what in one.wrong] == []
    assert sum(one.died for one in found) >= len(points) // 2, "the last points may be beyond a run's end"
    assert await made.books([*whole, *found]) == []
