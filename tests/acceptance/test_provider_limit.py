"""A provider that takes less than is asked of it: what free is kept waiting for, enterprise does not notice."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from uuid import uuid4

import httpx2
import pytest

from tests.acceptance.runs import all_ended, runs
from tests.acceptance.stack import Stack, running
from tests.acceptance.tasks import cancel_many, submit_many
from tests.servers import Servers
from tests.stage import CATALOGUE, eventually, staged

pytestmark = [pytest.mark.timeout(300)]
CALLS_A_MINUTE = 60
"""Free leaves four tenths of it to the others."""


@pytest.fixture(scope="module")
def stack(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Services whose model nobody else has: a limit is the model's, for all who share a Redis."""
    catalogue = tmp_path_factory.mktemp("limit") / "catalogue"
    shutil.copytree(CATALOGUE, catalogue)
    model = f"limited-{uuid4().hex[:8]}"
    for file, entry in (("models.yaml", "- name: {}\n"), ("agents.yaml", "model: {}\n")):
        text = (catalogue / file).read_text(encoding="utf-8")
        renamed = text.replace(entry.format("claude-haiku-4-5"), entry.format(model))
        assert renamed != text
        # Nobody else answers for it: what its limit does not let through waits.
        alone = [line for line in renamed.splitlines(keepends=True) if not line.lstrip().startswith("fallbacks:")]
        (catalogue / file).write_text("".join(alone), encoding="utf-8")
    with staged(servers, catalogue) as stage, running(stage, tmp_path_factory.mktemp("services")) as stack:
        yield stack


async def _limit(stack: Stack, calls_a_minute: int) -> None:
    async with httpx2.AsyncClient(base_url=stack.simulator, timeout=10) as simulator:
        answer = await simulator.put("/control/defaults", json={"rpm": calls_a_minute})
        assert answer.status_code == 200, answer.text


async def test_free_waits_for_its_provider_and_enterprise_does_not(stack: Stack) -> None:
    await _limit(stack, CALLS_A_MINUTE)
    async with stack.client("free") as free, stack.client("enterprise") as enterprise:
        flood = await submit_many(free, [f"Flood {n} [[sim tokens=2]]" for n in range(2 * CALLS_A_MINUTE)])

        async def waits() -> bool:
            """Free has had its part of the minute: of the rest some have begun, and none of them may call."""
            found = Counter(run["status"] for run in await runs(stack, flood))
            calls = await stack.audit()
            return found["completed"] >= CALLS_A_MINUTE / 2 and found["running"] >= 5 and calls["in_flight"] == 0

        await eventually(waits, 60)
        pressing = await submit_many(enterprise, [f"Pressing {n} [[sim tokens=2]]" for n in range(5)])
        served = await all_ended(stack, pressing)
        waiting = [run["id"] for run in await runs(stack, flood) if run["status"] == "running"]
        assert waiting, "enterprise did not wait for free"
        # It would go on at one call a second: that need not be waited for.
        await cancel_many(free)
        ran = await all_ended(stack, flood)
    assert {(run["status"], run["attempts"]) for run in served} == {("completed", 1)}
    assert {run["status"] for run in ran} == {"completed", "cancelled"}
    assert {run["attempts"] for run in ran if run["id"] in waiting} == {1}
