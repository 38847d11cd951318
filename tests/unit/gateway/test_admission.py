"""The level is that of the blueprint; without Redis a process keeps to its share."""

from __future__ import annotations

from uuid import uuid4

from hypothesis import given
from hypothesis import strategies as st

from common.pipelining import Pipelined
from gateway.admission import Admission, Candidate, Decision, Outcome, level_of
from gateway.principals import Principal
from tests.unit.gateway.broken import BrokenRedis


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_who_has_more_outstanding_never_goes_before_who_has_less(one: int, other: int) -> None:
    few, many = sorted((one, other))
    assert 30 >= level_of(few) >= level_of(many) >= 0


def test_the_first_task_is_alone_on_the_highest_level() -> None:
    assert [level_of(rank) for rank in (0, 1, 2, 3, 4, 1 << 29, 1 << 40)] == [30, 29, 28, 28, 27, 0, 0]


async def test_without_redis_a_process_admits_its_share_at_a_neutral_level() -> None:
    admission = Admission(Pipelined(BrokenRedis(), 1.0), replicas=2)
    principal = Principal(uuid4(), "free", 6, 100)

    async def admit() -> Decision:
        return await admission.admit(principal, Candidate(uuid4(), 5, False, "", "", b""))

    decisions = [await admit() for _ in range(4)]
    assert [one.outcome for one in decisions] == [Outcome.ADMITTED] * 3 + [Outcome.RATE_LIMITED]
    assert {one.level for one in decisions[:3]} == {15}
    assert not decisions[0].recorded
    assert 0 < decisions[3].reset_seconds <= 20
