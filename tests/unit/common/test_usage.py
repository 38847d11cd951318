"""Usage adds up: in any order and grouping, class by class, with no token counted twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.contracts.usage import Usage

counts = st.integers(min_value=0, max_value=1_000_000)
tools = st.dictionaries(st.sampled_from(["web_search", "code"]), counts, max_size=2)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    output = draw(counts)
    return Usage(
        input_tokens=draw(counts),
        cache_read_tokens=draw(counts),
        cache_write_5m_tokens=draw(counts),
        cache_write_1h_tokens=draw(counts),
        output_tokens=output,
        reasoning_tokens=draw(st.integers(min_value=0, max_value=output)),
        server_tool_calls=draw(tools),
        cached_calls=draw(counts),
    )


@given(usages(), usages(), usages())
def test_addition_is_associative_and_commutative(one: Usage, two: Usage, three: Usage) -> None:
    assert (one + two) + three == one + (two + three)
    assert one + two == two + one


@given(usages())
def test_nothing_added_changes_nothing(usage: Usage) -> None:
    assert usage + Usage() == usage == Usage() + usage


@given(usages(), usages())
def test_totals_add_up(one: Usage, two: Usage) -> None:
    total = one + two
    assert total.total_input_tokens == one.total_input_tokens + two.total_input_tokens
    assert total.reasoning_tokens <= total.output_tokens


@given(usages())
def test_a_usage_survives_the_wire(usage: Usage) -> None:
    assert Usage.model_validate_json(usage.model_dump_json()) == usage


def test_reasoning_cannot_exceed_the_output_it_is_part_of() -> None:
    with pytest.raises(ValidationError, match="part of output_tokens"):
        Usage(output_tokens=1, reasoning_tokens=2)


@pytest.mark.parametrize("count", [-1, 100_000_001])
def test_absurd_counts_are_refused(count: int) -> None:
    with pytest.raises(ValidationError):
        Usage(input_tokens=count)


def test_a_kind_of_token_that_is_not_known_yet_is_kept() -> None:
    assert Usage.model_validate({"image_tokens": 3}).model_dump()["image_tokens"] == 3
