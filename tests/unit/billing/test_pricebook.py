"""What the catalogue's models cost comes from the pinned bundle, by rules that are written down."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from billing.pricebook import BookedPrice, Rates, bundled_prices
from common.catalogue import Agent, Catalogue, Model, Price, Tier, load_catalogue
from common.errors import ConfigurationError

_CATALOGUE = Path(__file__).parents[3] / "deploy" / "catalogue"


def _price_of(provider: str, priced_as: str, *, window: int = 1_000_000) -> BookedPrice:
    values: dict[str, Any] = {
        "name": "m",
        "provider": provider,
        "api": "scripted",
        "window": window,
        "max_output": 1000,
        "class": "simple",
        "price": Price(provider=provider, model=priced_as),
    }
    agent = Agent(name="default", version=1, system="", model="m")
    (price,) = bundled_prices(
        Catalogue(tiers=(Tier(name="free", weight=1),), models=(Model(**values),), agents=(agent,))
    )
    return price


def test_every_model_of_the_catalogue_has_a_price() -> None:
    catalogue = load_catalogue(_CATALOGUE)
    prices = bundled_prices(catalogue)
    assert [price.model for price in prices] == [model.name for model in catalogue.models]
    for price in prices:
        rates = price.rates
        assert min(rates.input, rates.cache_read, rates.cache_write_5m, rates.cache_write_1h, rates.output) > 0
        assert price.source.startswith("genai-prices ")


def test_anthropic_has_a_rate_for_each_class() -> None:
    rates = _price_of("anthropic", "claude-haiku-4-5").rates
    assert rates == Rates(Decimal(1), Decimal("0.1"), Decimal("1.25"), Decimal(2), Decimal(5))


def test_anthropic_cache_writes_without_a_rate_follow_its_rule() -> None:
    rates = _price_of("anthropic", "claude-2.0").rates
    assert rates.cache_write_5m == rates.input * Decimal("1.25")
    assert rates.cache_write_1h == rates.input * 2
    assert rates.cache_read == rates.input


def test_openai_charges_cache_writes_as_input() -> None:
    rates = _price_of("openai", "gpt-5.4-mini").rates
    assert rates.cache_write_5m == rates.cache_write_1h == rates.input
    assert rates.cache_read < rates.input


def test_the_dearest_long_context_tier_within_the_window_applies() -> None:
    short = _price_of("openai", "gpt-5.4", window=272_000).rates
    long = _price_of("openai", "gpt-5.4", window=272_001).rates
    assert (short.input, long.input) == (Decimal("2.5"), Decimal(5))
    assert long.output > short.output


def test_the_scripted_provider_has_round_prices() -> None:
    price = _price_of("scripted", "anything")
    assert price.source == "scripted"
    assert (price.rates.input, price.rates.output) == (Decimal(1), Decimal(2))


def test_an_unknown_model_is_named() -> None:
    with pytest.raises(ConfigurationError, match="gpt-nonesuch-9"):
        _price_of("openai", "gpt-nonesuch-9")
