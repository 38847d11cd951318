"""Money is exact: linear in tokens, no token counted twice, no charge above its hold."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from billing.pricebook import Rates
from billing.pricing import price, settle
from common.contracts.usage import Usage

# At most four decimal places, as providers publish them: then nothing is ever rounded.
published = st.decimals(min_value="0.0001", max_value=1000, places=4)
rates = st.builds(Rates, published, published, published, published, published)
amounts = st.decimals(min_value=0, max_value=10_000, places=10)
markups = st.decimals(min_value=0, max_value=999, places=4)
counts = st.integers(min_value=0, max_value=1_000_000)
classes = ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens", "output_tokens")
usages = st.builds(Usage, **dict.fromkeys(classes, counts))


@given(usages, usages, rates)
def test_the_price_of_two_calls_is_the_sum_of_their_prices(one: Usage, other: Usage, at: Rates) -> None:
    assert price(one + other, at) == price(one, at) + price(other, at)


@given(usages, rates, st.sampled_from(classes))
def test_more_tokens_of_any_class_cost_more(usage: Usage, at: Rates, name: str) -> None:
    more = usage.model_copy(update={name: getattr(usage, name) + 1})
    assert price(more, at) > price(usage, at)


@given(usages, rates)
def test_each_class_is_counted_once(usage: Usage, at: Rates) -> None:
    alone = [Usage(**{name: getattr(usage, name)}) for name in classes]
    assert price(usage, at) == sum(price(part, at) for part in alone)


@given(usages, rates)
def test_reasoning_is_a_part_of_the_output(usage: Usage, at: Rates) -> None:
    thought = usage.model_copy(update={"reasoning_tokens": usage.output_tokens})
    assert price(thought, at) == price(usage, at)


@given(usages, rates)
def test_what_was_held_for_the_dearest_input_class_is_enough(usage: Usage, at: Rates) -> None:
    ceiling = max(at.input, at.cache_read, at.cache_write_5m, at.cache_write_1h)
    worst = Rates(ceiling, ceiling, ceiling, ceiling, at.output)
    assert price(usage, at) <= price(usage, worst)


@given(amounts, amounts, amounts)
def test_no_charge_exceeds_its_hold_and_nothing_is_lost(cost: Decimal, owed: Decimal, held: Decimal) -> None:
    settlement = settle(cost, owed, held)
    assert 0 <= settlement.charge <= min(owed, held)
    assert settlement.variance == max(cost - settlement.charge, 0)


@given(usages, rates, markups, st.data())
def test_what_was_held_with_its_markup_is_enough(usage: Usage, at: Rates, markup: Decimal, data: st.DataObject) -> None:
    """As `billing.reserve` computes it: bounds of tokens at the dearest input rate, times the same markup."""
    ceiling = max(at.input, at.cache_read, at.cache_write_5m, at.cache_write_1h)
    bound = usage.total_input_tokens + data.draw(counts)
    worst = price(
        Usage(input_tokens=min(bound, 100_000_000), output_tokens=usage.output_tokens),
        Rates(ceiling, ceiling, ceiling, ceiling, at.output),
        markup,
    )
    assert price(usage, at) <= price(usage, at, markup) <= worst


def test_rounding_is_half_up_at_ten_digits() -> None:
    rate = Decimal("0.00005")
    assert price(Usage(input_tokens=1), Rates(rate, rate, rate, rate, rate)) == Decimal("0.0000000001")
    less = Decimal("0.000049")
    assert price(Usage(input_tokens=1), Rates(less, less, less, less, less)) == 0


def test_large_amounts_are_exact() -> None:
    rate = Decimal("9999999999.9999999999")
    usage = Usage(**dict.fromkeys(classes, 100_000_000))
    assert price(usage, Rates(rate, rate, rate, rate, rate)) == Decimal("4999999999999.9999999500")


def test_a_markup_is_rounded_once_with_the_cost() -> None:
    # 0.00005 a token is 0.00000000005 at first; half of it more is below one unit, and half up makes it one.
    rate = Decimal("0.00004")
    assert price(Usage(input_tokens=1), Rates(rate, rate, rate, rate, rate)) == 0
    assert price(Usage(input_tokens=1), Rates(rate, rate, rate, rate, rate), Decimal(25)) == Decimal("0.0000000001")
