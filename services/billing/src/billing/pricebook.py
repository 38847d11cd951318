"""What the catalogue's models cost, from the price bundle that is pinned with the code.

The bundle is read as it was shipped, never updated in the background: prices change by a new lock, a reviewed
difference, and nothing else. Rates are US dollars for a million tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib.metadata import version

from genai_prices.data_snapshot import DataSnapshot
from genai_prices.types import ModelPrice, TieredPrices

from common.catalogue import Catalogue, Model
from common.errors import ConfigurationError

_BUNDLE = "genai-prices"
# Anthropic's rule for every model: a cache write costs 1.25 times the input rate for 5 minutes, twice for an hour.
_ANTHROPIC_WRITE_5M = Decimal("1.25")
_ANTHROPIC_WRITE_1H = Decimal(2)


@dataclass(frozen=True, slots=True)
class Rates:
    """US dollars for a million tokens of each class."""

    input: Decimal
    cache_read: Decimal
    cache_write_5m: Decimal
    cache_write_1h: Decimal
    output: Decimal


@dataclass(frozen=True, slots=True)
class BookedPrice:
    """A price as it goes into `billing.prices`."""

    provider: str
    model: str
    rates: Rates
    source: str


# The scripted provider serves tests and the demo: round numbers that anyone can add up.
_SCRIPTED = Rates(Decimal(1), Decimal(1), Decimal(1), Decimal(1), Decimal(2))


def bundled_prices(catalogue: Catalogue, at: datetime | None = None) -> list[BookedPrice]:
    """The price of each model, at a time or now. Raises `ConfigurationError` naming a model that the bundle lacks."""
    return [_booked(model, at or datetime.now(UTC)) for model in catalogue.models]


def _booked(model: Model, at: datetime) -> BookedPrice:
    if model.provider == "scripted":
        return BookedPrice(model.provider, model.name, _SCRIPTED, "scripted")
    return BookedPrice(model.provider, model.name, _rates(model, at), f"{_BUNDLE} {version(_BUNDLE)}")


def _rates(model: Model, at: datetime) -> Rates:
    prices = _bundle_entry(model, at)
    base = _required(model, prices, "input_mtok")
    write_5m, write_1h = _writes(model, prices, base)
    return Rates(
        input=base,
        # A model without a rate for cache reads gives no discount on them.
        cache_read=_rate(model, prices, "cache_read_mtok") or base,
        cache_write_5m=write_5m,
        cache_write_1h=write_1h,
        output=_required(model, prices, "output_mtok"),
    )


def _writes(model: Model, prices: ModelPrice, base: Decimal) -> tuple[Decimal, Decimal]:
    write_5m = _rate(model, prices, "cache_write_mtok")
    write_1h = _rate(model, prices, "cache_write_1h_mtok")
    if model.price.provider == "anthropic":
        return write_5m or base * _ANTHROPIC_WRITE_5M, write_1h or base * _ANTHROPIC_WRITE_1H
    # OpenAI charges most models' cache writes as input, and knows one lifetime: where it has a rate, it is for both.
    write = write_5m or base
    return write, write_1h or write


def _bundle_entry(model: Model, at: datetime) -> ModelPrice:
    # Only jobs need this large module, and only they shall load it. The library's own `get_snapshot` would
    # hand out whatever was set last in this process; this is the bundle itself.
    from genai_prices.data import providers

    try:
        _, found = DataSnapshot(providers, from_auto_update=False).find_provider_model(
            model.price.model, None, model.price.provider, None
        )
    except LookupError as error:
        raise ConfigurationError(
            f"The model {model.name!r} has no price: the price bundle knows no {model.price.model!r} of "
            f"{model.price.provider!r}. Correct its `price` in the catalogue's models.yaml."
        ) from error
    return found.get_prices(at)


def _required(model: Model, prices: ModelPrice, name: str) -> Decimal:
    rate = _rate(model, prices, name)
    if not rate:
        raise ConfigurationError(f"The model {model.name!r} has no price: its entry in the price bundle has no {name}.")
    return rate


def _rate(model: Model, prices: ModelPrice, name: str) -> Decimal | None:
    """One class's rate; of long-context tiers the dearest that the model's window can reach.

    The whole call is charged at the tier's rate, and the hold is taken before the number of tokens is known: a dearer
    rate than needed costs an overestimate, a cheaper one would break the promise that a charge fits its hold.
    """
    rate: Decimal | TieredPrices | None = getattr(prices, name, None)
    if isinstance(rate, TieredPrices):
        return max([rate.base, *(tier.price for tier in rate.tiers if tier.start < model.window)])
    return rate
