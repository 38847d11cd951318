"""What is said of many waits is what they are."""

from __future__ import annotations

import pytest

from benchmarks.distributions import CURVE_POINTS, cumulated, deviation, percentile, shares, unfairness


def test_percentiles_lie_between_the_values_that_were_measured() -> None:
    waits = [float(value) for value in range(101)]

    assert [percentile(waits, percent) for percent in (1, 50, 99)] == pytest.approx([1, 50, 99])
    assert percentile([7.0], 99) == 7.0
    assert percentile([1.0, 2.0], 99) == pytest.approx(1.99)


def test_a_curve_goes_from_the_shortest_to_the_longest_and_is_thinned() -> None:
    curve = cumulated([float(value) for value in range(1000, 0, -1)])

    assert len(curve) == CURVE_POINTS
    assert curve[0] == (1.0, 0.1)
    assert curve[-1] == (1000.0, 100.0)
    assert curve == sorted(curve)


def test_a_curve_of_few_values_has_each_once_and_of_none_nothing() -> None:
    assert cumulated([2.0, 1.0]) == [(1.0, 50.0), (2.0, 100.0)]
    assert cumulated([]) == []


def test_shares_add_up_and_of_nothing_everybody_has_nothing() -> None:
    assert shares({"a": 6, "b": 3, "c": 1}) == {"a": 0.6, "b": 0.3, "c": 0.1}
    assert shares({"a": 0, "b": 0}) == {"a": 0, "b": 0}


def test_the_deviation_is_that_of_whoever_is_furthest_from_its_weight() -> None:
    weights = {"a": 6.0, "b": 3.0, "c": 1.0}

    assert deviation({"a": 600, "b": 300, "c": 100}, weights) == pytest.approx(0)
    assert deviation({"a": 590, "b": 290, "c": 120}, weights) == pytest.approx(0.2)


def test_unfairness_is_the_worst_tenant_against_the_median_one_whatever_each_sends() -> None:
    even = [[1.0] * 1000, [1.0], [1.0, 1.0]]
    assert unfairness(even) == 1
    assert unfairness([*even, [5.0, 9.0, 5.0]]) == 5
    assert unfairness([[2.0], []]) == 1
