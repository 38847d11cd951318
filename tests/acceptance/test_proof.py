"""The short form of `make prove-cap`: money under attack, and then the proof of every book."""

from __future__ import annotations

import os
from collections.abc import Iterator
from decimal import Decimal

import pytest

from tests.acceptance.stack import Stack
from tests.proving.attack import Size, attack, stacks
from tests.servers import CHOICE, ServersOfThisRun, ServersUnavailable

pytestmark = [pytest.mark.timeout(1800)]


@pytest.fixture
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Stack]]:
    """Stacks whose servers nobody else uses."""
    own = ServersOfThisRun({CHOICE: os.environ.get(CHOICE, "")}, name="proof-")
    try:
        with stacks(own.get(), tmp_path_factory.mktemp("attacked")) as made:
            yield made
    except ServersUnavailable as problem:
        if os.environ.get("CI") == "true":
            pytest.fail(f"no servers: {problem}")
        pytest.skip(f"no servers: {problem}")
    finally:
        own.stop()


async def test_the_books_agree_whatever_is_done_to_the_stack(attacked: tuple[Stack, Stack]) -> None:
    stack, second = attacked
    verdict, adversary = await attack(stack, second, Size(tenants=6, each=18, rounds=1, pause=0.5), seed=20)
    print(verdict)
    assert verdict.differences == [], verdict
    # And all of it really happened: it was spent, refused, cut, cancelled, answered by others, and sent twice.
    assert sum(Decimal(month["posted"]["charge_usd"]) for month in verdict.months) > 0
    assert verdict.counts["runs"]["failed"] > 0 < verdict.counts["runs"]["cancelled"]
    assert set(verdict.audit.providers) == {"anthropic", "openai"}
    assert sum(month["usage"]["estimated"] for month in verdict.months) > 0
    assert adversary.sent_again > 0
