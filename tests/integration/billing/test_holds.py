"""A hold is for the worst case: whatever a call within its bounds turns out to have used, it is charged in full."""

from __future__ import annotations

from decimal import Decimal
from uuid import uuid4

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from billing.pricebook import Rates
from billing.pricing import price
from common.contracts.usage import Usage
from tests.stage import Stage

TOKENS = st.integers(0, 2_000_000)
RATE = st.decimals("0.0000000001", "999", places=10)
RATES = st.builds(Rates, RATE, RATE, RATE, RATE, RATE)


@st.composite
def within(draw: st.DrawFn, bound: int, most: int) -> Usage:
    """A usage of at most so many tokens of input, of whatever classes, and of output."""
    cuts = sorted(draw(st.lists(st.integers(0, bound), min_size=4, max_size=4)))
    plain, read, short, long = (b - a for a, b in zip([0, *cuts], cuts, strict=False))
    output = draw(st.integers(0, most))
    return Usage(
        input_tokens=plain,
        cache_read_tokens=read,
        cache_write_5m_tokens=short,
        cache_write_1h_tokens=long,
        output_tokens=output,
        reasoning_tokens=draw(st.integers(0, output)),
    )


@given(data=st.data(), rates=RATES, bound=TOKENS, most=TOKENS, markup=st.decimals(0, 500, places=4))
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_usage_within_the_bounds_comes_to_more_than_was_held(
    stage: Stage, data: st.DataObject, rates: Rates, bound: int, most: int, markup: Decimal
) -> None:
    """At any rates, where a cache's may be the dearest, and with any markup, to the last digit."""
    caps = ("run_cap_usd", "user_day_cap_usd", "tenant_day_cap_usd", "tenant_month_cap_usd")
    tenant = stage.new_tenant(markup_percent=str(markup), **dict.fromkeys(caps, "999999999"))
    model = f"model-{uuid4()}"
    with psycopg.connect(stage.admin_dsn) as connection:
        connection.execute(
            "INSERT INTO billing.prices (provider, model, valid_from, input_mtok, cache_read_mtok, cache_write_5m_mtok,"
            " cache_write_1h_mtok, output_mtok, source) VALUES ('p', %s, 'epoch', %s, %s, %s, %s, %s, 'a test')",
            (model, rates.input, rates.cache_read, rates.cache_write_5m, rates.cache_write_1h, rates.output),
        )
        row = connection.execute(
            "SELECT verdict, amount FROM billing.reserve(%s, %s, NULL, %s, 1, 1, 1, 'p', %s, %s, %s, NULL)",
            (uuid4(), tenant, uuid4(), model, bound, most),
        ).fetchone()
        connection.rollback()
    assert row is not None
    verdict, held = row
    assert verdict == "held"
    used = data.draw(within(bound, most))
    assert price(used, rates, markup) <= held
    dearest = max(rates.input, rates.cache_read, rates.cache_write_5m, rates.cache_write_1h)
    worst = Rates(dearest, rates.input, rates.input, rates.input, rates.output)
    assert held == price(Usage(input_tokens=bound, output_tokens=most), worst, markup)
