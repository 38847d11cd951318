"""The level is that of the blueprint; without Redis a process keeps to its share."""

from __future__ import annotations

from itertools import accumulate
from typing import cast
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.admission import level_of
from common.pipelining import Pipelined
from common.postgres import Pool
from deploy.seed import PLANS
from gateway.admission import Admission, Candidate, Decision, Outcome
from gateway.background import Background
from gateway.database import Database
from gateway.outstanding import Outstanding
from gateway.outstanding_records import OpenTasks
from gateway.principals import Principal
from tests.unit.gateway.broken import BrokenRedis


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_who_has_more_outstanding_never_goes_before_who_has_less(one: int, other: int) -> None:
    few, many = sorted((one, other))
    assert 30 >= level_of(few) >= level_of(many) >= 0


def test_the_first_task_is_alone_on_the_highest_level() -> None:
    assert [level_of(rank) for rank in (0, 1, 2, 3, 4, 1 << 29, 1 << 40)] == [30, 29, 28, 27, 27, 0, 0]


def test_levels_tell_apart_as_many_outstanding_tasks_as_a_plan_allows() -> None:
    most = max(plan.max_outstanding for plan in PLANS)
    assert level_of(most - 1) > 0


@pytest.mark.parametrize("smaller", [60, 130, 260, 300, 520, 1050])
def test_of_two_tenants_the_smaller_one_gets_two_fifths_until_it_is_served(smaller: int) -> None:
    waiting = [(-level_of(rank), 10 * rank, True) for rank in range(smaller)]
    waiting += [(-level_of(rank), rank, False) for rank in range(10 * smaller)]
    served = [small for _, _, small in sorted(waiting)]
    so_far = list(accumulate(served))
    assert all(count >= 0.4 * n for n, count in enumerate(so_far, 1) if n >= 50 and count < smaller)


async def test_without_redis_a_process_admits_its_share_at_a_neutral_level() -> None:
    redis = Pipelined(BrokenRedis(), 1.0)
    nobody = OpenTasks(Database(cast(Pool, None), 1.0))
    admission = Admission(redis, Outstanding(nobody, redis, Background()), replicas=2)
    principal = Principal(uuid4(), "free", 6, 100)

    async def admit() -> Decision:
        return await admission.admit(principal, Candidate(uuid4(), 5, False, "", "", b""))

    decisions = [await admit() for _ in range(4)]
    assert [one.outcome for one in decisions] == [Outcome.ADMITTED] * 3 + [Outcome.RATE_LIMITED]
    assert {one.level for one in decisions[:3]} == {15}
    assert not decisions[0].recorded
    assert 0 < decisions[3].reset_seconds <= 20
