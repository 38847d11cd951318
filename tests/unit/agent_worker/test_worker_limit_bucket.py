"""The bucket as a value: what no history of questions can make it do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent_worker.limiter.bucket import (
    CLAIM_SECONDS,
    GROWTH,
    LEAST_FACTOR,
    LONGEST_PAUSE,
    Ask,
    Bucket,
    Heard,
    Side,
)
from agent_worker.limiter.script import Question
from agent_worker.limiter.shared import Refusal
from tests.unit.agent_worker.limiting import WATERMARKS, buckets, draws, heard, histories

EPSILON = 1e-5
History = list[tuple[float, Question]]
loads = st.lists(st.tuples(st.floats(0, 20), draws), min_size=1, max_size=60)
"""Seconds to the next call, and the call."""


def bucket_of(requests: float = 0.0, tokens: float = 0.0, at: float = 1_000.0) -> Bucket:
    return Bucket(at, Side(requests), Side(tokens)).moved(at)


def played(bucket: Bucket, history: History) -> tuple[Bucket, float]:
    now = bucket.at
    for seconds, question in history:
        now += seconds
        bucket, _ = question.apply(bucket, now)
    return bucket, now


@given(buckets, histories)
def test_the_level_is_between_nothing_and_the_capacity(bucket: Bucket, history: History) -> None:
    now = bucket.at
    for seconds, question in history:
        now += seconds
        bucket, _ = question.apply(bucket, now)
        assert LEAST_FACTOR <= bucket.factor <= 1
        for side in (bucket.requests, bucket.tokens):
            if side.limit > 0:
                assert 0 <= side.level <= side.limit * bucket.factor
            else:
                assert side.level < 0


@given(st.floats(1, 1_000), st.floats(100, 100_000), loads)
def test_no_window_is_granted_more_than_the_capacity_and_what_fills_meanwhile(
    requests: float, tokens: float, load: list[tuple[float, Ask]]
) -> None:
    bucket, now, granted = bucket_of(requests, tokens), 1_000.0, []
    for seconds, ask in load:
        now += seconds
        bucket, grant = bucket.draw(ask, now)
        if grant.granted:
            granted.append((now, grant))
    for first, (began, _) in enumerate(granted):
        of_requests = of_tokens = 0.0
        for at, grant in granted[first:]:
            of_requests, of_tokens = of_requests + grant.requests, of_tokens + grant.tokens
            assert of_requests <= requests * (1 + (at - began) / 60) + EPSILON
            assert of_tokens <= tokens * (1 + (at - began) / 60) + EPSILON * tokens


@given(buckets, histories, draws)
def test_a_tier_never_lowers_the_level_below_its_watermark(bucket: Bucket, history: History, ask: Ask) -> None:
    bucket, now = played(bucket, history)
    after, grant = bucket.draw(ask, now)
    before = bucket.moved(now)
    for old, new, drawn in (
        (before.requests, after.requests, grant.requests),
        (before.tokens, after.tokens, grant.tokens),
    ):
        assert grant.granted or (new.level, drawn) == (old.level, 0)
        if drawn > 0:
            assert new.level >= ask.watermark * old.limit * before.factor - EPSILON


@given(buckets, histories, st.floats(-5_000, 5_000), st.sampled_from(WATERMARKS))
def test_what_a_tier_used_beyond_its_grant_is_not_taken_from_better_ones(
    bucket: Bucket, history: History, back: float, watermark: float
) -> None:
    bucket, now = played(bucket, history)
    before, after = bucket.moved(now), bucket.settle(0.0, back, watermark, now)
    assume(before.tokens.limit > 0)
    floor = min(before.tokens.level, watermark * before.tokens.limit * before.factor)
    assert after.tokens.level >= floor - EPSILON
    assert after.tokens.level <= before.tokens.level + max(0.0, back)


@given(st.floats(10, 100_000), st.floats(0, 1), st.sampled_from(WATERMARKS), loads)
def test_a_grant_that_is_given_back_leaves_no_trace(
    tokens: float, part: float, watermark: float, load: list[tuple[float, Ask]]
) -> None:
    bucket, now = bucket_of(0, tokens), 1_000.0
    for seconds, ask in load:
        now += seconds
        bucket, _ = bucket.draw(ask, now)
    drawn, grant = bucket.draw(Ask(part * tokens, watermark), now)
    back = drawn.settle(grant.requests, grant.tokens, watermark, now)
    assert back.tokens.level == pytest.approx(bucket.moved(now).tokens.level, rel=1e-9, abs=EPSILON)


@given(buckets, histories, draws, st.floats(0, 500))
def test_nobody_draws_while_the_provider_is_paused(bucket: Bucket, history: History, ask: Ask, pause: float) -> None:
    bucket, now = played(bucket, history)
    bucket = bucket.refuse(pause, False, -1.0, -1.0, 0.0, now)
    until = now + min(pause, LONGEST_PAUSE)
    assert now + LONGEST_PAUSE >= bucket.paused_until >= until
    just_before = bucket.paused_until - 0.001
    if just_before > now:
        assert not bucket.draw(ask, just_before)[1].granted


@given(st.integers(1, 50), st.floats(0, 10))
def test_a_burst_of_refusals_shrinks_once(burst: int, pause: float) -> None:
    bucket = bucket_of(600, 60_000)
    for _ in range(burst):
        bucket = bucket.refuse(pause, True, -1.0, -1.0, 0.0, 1_000.0)
    assert bucket.factor == 0.5
    assert bucket.requests.level == bucket.tokens.level == 0.0


@given(buckets, st.lists(st.floats(0, 400), max_size=30))
def test_it_never_shrinks_to_nothing_and_is_whole_again_when_refusals_end(bucket: Bucket, gaps: list[float]) -> None:
    now = bucket.at
    for gap in gaps:
        now += gap
        bucket = bucket.refuse(0.0, True, -1.0, -1.0, 0.0, now)
        assert bucket.factor >= LEAST_FACTOR
    assert bucket.moved(now + 1 / GROWTH).factor == 1.0


@pytest.mark.parametrize("truth", [0.9, 0.5, 0.2])
def test_it_finds_the_true_limit_where_it_was_told_a_higher_one(truth: float) -> None:
    """A provider whose limit is lower than the operator believes, and more demand than either."""
    believed, minutes = 600.0, 30
    bucket, provider = bucket_of(believed), bucket_of(believed * truth)
    now, served, refused = 1_000.0, 0, 0
    while now < 1_000.0 + minutes * 60:
        bucket, grant = bucket.draw(Ask(0, 0), now)
        if not grant.granted:
            now += max(grant.wait, 1e-3)
            continue
        provider, answer = provider.draw(Ask(0, 0), now)
        if answer.granted:
            served += 1
        else:
            refused += 1
            bucket = bucket.refuse(answer.wait, True, -1.0, -1.0, 0.0, now)
    assert refused < 0.01 * served + minutes * 3
    assert served > 0.55 * truth * believed * minutes


@given(st.floats(6, 600), st.floats(1_000, 100_000), st.floats(0, 1), st.floats(0, 30), st.booleans(), st.data())
def test_the_best_tier_waits_for_the_pause_and_its_own_refill_whatever_the_others_do(
    requests: float, tokens: float, part: float, pause: float, shrinks: bool, data: st.DataObject
) -> None:
    """Others ask all the time and use more than they were granted; the best tier asks when it was told to."""
    bucket, now = bucket_of(requests, tokens), 1_000.0
    others = st.builds(Ask, tokens=st.floats(0, 2 * tokens), watermark=st.sampled_from(WATERMARKS[1:]))
    for ask in data.draw(st.lists(others, max_size=30)):
        bucket, _ = bucket.draw(ask, now)
    bucket = bucket.refuse(pause, shrinks, -1.0, -1.0, data.draw(st.sampled_from(WATERMARKS[1:])), now)
    mine, began, factor = Ask(part * tokens, 0.0), now, bucket.factor
    bucket, grant = bucket.draw(mine, now)
    while not grant.granted:
        until = now + min(grant.wait, 1.0)
        for ask in data.draw(st.lists(others, max_size=5)):
            now = min(until, now + data.draw(st.floats(0, 0.5)))
            bucket, theirs = bucket.draw(ask, now)
            bucket = bucket.settle(0.0, theirs.tokens - ask.tokens, ask.watermark, now)
        now = until
        bucket, grant = bucket.draw(mine, now)
    refill = max(mine.tokens * 60 / tokens, 60 / requests) / factor
    assert now - began <= pause + refill + 0.01


_refusals = st.tuples(st.floats(0, 20), st.booleans())
"""How long a refusal pauses, and whether it shrinks."""


@given(st.floats(200, 6_000), st.floats(1_000, 100_000), st.floats(0, 1), st.data())
def test_what_a_watermark_keeps_waits_for_the_pause_alone_however_often_worse_calls_are_refused(
    requests: float, tokens: float, part: float, data: st.DataObject
) -> None:
    """As much as the watermark keeps of the limit at its lowest: a sixteenth of the limit at worst."""
    bucket, now, kept = bucket_of(requests, tokens), 1_000.0, WATERMARKS[1]
    others = st.builds(Ask, tokens=st.floats(0, 2 * tokens), watermark=st.sampled_from(WATERMARKS[1:]))
    lowest = 1.0
    for seconds, ask, refusal in data.draw(
        st.lists(st.tuples(st.floats(0, 10), others, st.none() | _refusals), max_size=30)
    ):
        now += seconds
        bucket, theirs = bucket.draw(ask, now)
        bucket = bucket.settle(0.0, theirs.tokens - ask.tokens, ask.watermark, now)
        if refusal is not None:
            bucket = bucket.refuse(*refusal, -1.0, -1.0, ask.watermark, now)
        lowest = min(lowest, bucket.factor)
    mine = Ask(part * kept * tokens * lowest, 0.0)
    began = max(now, bucket.paused_until)
    bucket, grant = bucket.draw(mine, now)
    assert grant.granted or grant.wait == pytest.approx(began - now)
    assert grant.granted or bucket.draw(mine, began)[1].granted


def test_a_worse_call_that_is_refused_leaves_what_its_tier_may_not_have() -> None:
    bucket = bucket_of(600, 60_000).refuse(0.0, True, -1.0, -1.0, 0.4, 1_000.0)
    assert (bucket.factor, bucket.requests.level, bucket.tokens.level) == (0.5, 120.0, 12_000.0)
    assert bucket.draw(Ask(12_000.0, 0.0), 1_000.0)[1].granted
    assert not bucket.draw(Ask(1.0, 0.4), 1_000.0)[1].granted
    said = bucket_of(600, 60_000).refuse(0.0, True, 7.0, 0.0, 0.4, 1_000.0)  # as it would refuse anybody
    assert (said.requests.level, said.tokens.level) == (7.0, 0.0)


def test_of_refusals_that_come_together_the_strictest_counts() -> None:
    free, overloaded = Refusal(2.0, True, 0.4), Refusal(9.0, False, 0.0)
    assert free.joined(overloaded) == overloaded.joined(free) == Refusal(9.0, True, 0.4)
    told = Refusal(1.0, True, 0.2, 5.0, 900.0)
    assert free.joined(told) == told.joined(free) == Refusal(2.0, True, 0.2, 5.0, 900.0)


def test_a_worse_tier_cannot_take_each_drop_that_a_large_call_waits_for() -> None:
    """A call that needs more than the others must leave in the bucket."""
    bucket, large, small = bucket_of(0, 60_000), Ask(50_000, 0.0), Ask(1_000, 0.4)
    while (drawn := bucket.draw(small, 1_000.0))[1].granted:
        bucket = drawn[0]
    bucket, grant = bucket.draw(large, 1_000.0)
    assert grant.wait == pytest.approx(26, abs=1)
    now = 1_000.0
    while not grant.granted:
        now += 0.5
        bucket, theirs = bucket.draw(small, now)
        assert not theirs.granted
        bucket, grant = bucket.draw(large, now)
    assert now - 1_000.0 <= 26.5 + 0.5


def test_a_claim_lapses_when_nobody_asks_any_more() -> None:
    bucket = bucket_of(0, 60_000)
    for _ in range(2):
        bucket, grant = bucket.draw(Ask(60_000, 0.0), 1_000.0)
    assert not grant.granted
    bucket, grant = bucket.draw(Ask(1.0, 0.4), 1_000.0 + CLAIM_SECONDS / 2)
    assert not grant.granted
    assert bucket.moved(1_040.0).draw(Ask(1.0, 0.4), 1_040.0)[1].granted


@pytest.mark.parametrize("watermark", WATERMARKS)
def test_a_call_that_is_larger_than_its_tier_may_draw_is_let_through_all_the_same(watermark: float) -> None:
    bucket, grant = bucket_of(2, 1_000).draw(Ask(5_000, watermark), 1_000.0)
    assert (grant.granted, grant.requests) == (True, 1.0)
    assert grant.tokens == pytest.approx((1 - watermark) * 1_000)
    assert bucket.tokens.level == pytest.approx(watermark * 1_000)


@given(buckets, histories, heard, heard)
def test_a_provider_can_lower_the_operators_limit_and_never_raise_it(
    bucket: Bucket, history: History, requests: Heard, tokens: Heard
) -> None:
    bucket, now = played(bucket, history)
    taught = bucket.learn(requests, tokens, now)
    for side, said in ((taught.requests, requests), (taught.tokens, tokens)):
        if side.configured > 0:
            assert side.limit <= side.configured
        if said.limit > 0:
            assert side.limit <= said.limit
        if side.limit > 0 and said.left >= 0:
            assert side.level <= said.left


def test_a_clock_that_is_put_back_costs_no_more_than_the_longest_pause() -> None:
    bucket = bucket_of(60).refuse(30.0, True, -1.0, -1.0, 0.0, 1_000.0)
    back = bucket.moved(0.0)
    assert back.paused_until <= LONGEST_PAUSE
    assert replace(back).draw(Ask(0, 0.0), LONGEST_PAUSE + 5)[1].granted
