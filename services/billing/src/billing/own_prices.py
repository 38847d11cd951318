"""One's own prices, from a YAML file: what was agreed with a provider, or what its bundle has wrong.

currency: USD
prices:
  - provider: anthropic
    model: claude-haiku-4-5
    from: 2026-10-01              # a day in UTC, or a time with its zone; left out: always
    until: 2027-01-01             # not included; left out: without end
    input: 0.90                   # US dollars for a million tokens
    cache_read: 0.09
    cache_write_5m: 1.125
    cache_write_1h: 1.80
    output: 4.50
    source: contract 2026-17
"""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from billing.price_versions import ALWAYS, Version
from billing.pricebook import Rates
from common.errors import ConfigurationError

_DAY = len("2026-10-01")


def parse_time(text: object) -> datetime:
    """A day in UTC, or a time with its zone. Raises `ValueError`."""
    try:
        at: datetime | None = datetime.fromisoformat(str(text))
    except ValueError:
        at = None
    if at is None or (at.tzinfo is None and len(str(text)) != _DAY):
        raise ValueError("it must be a day in UTC (2026-10-01) or a time with its zone (2026-10-01T12:00:00Z)")
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)


Time = Annotated[datetime, BeforeValidator(parse_time)]
Rate = Annotated[Decimal, Field(gt=0, max_digits=20, decimal_places=10)]
Name = Annotated[str, Field(min_length=1, max_length=200)]


class OwnPrice(BaseModel):
    """One entry. A rate for each class of tokens: one that is left out would be guessed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    provider: Name
    model: Name
    valid_from: Time = Field(default=ALWAYS, alias="from")
    valid_until: Time | None = Field(default=None, alias="until")
    input: Rate
    cache_read: Rate
    cache_write_5m: Rate
    cache_write_1h: Rate
    output: Rate
    source: Name

    @model_validator(mode="after")
    def _lasts(self) -> Self:
        if self.valid_from < ALWAYS or (self.valid_until is not None and self.valid_until <= self.valid_from):
            raise ValueError(f"`until` must be after `from`, and `from` not before {ALWAYS:%Y}")
        return self

    @property
    def version(self) -> Version:
        """As the book has it."""
        rates = Rates(self.input, self.cache_read, self.cache_write_5m, self.cache_write_1h, self.output)
        return Version(self.provider, self.model, rates, self.valid_from, self.valid_until, self.source)


class OwnPrices(BaseModel):
    """The file."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    currency: str
    prices: tuple[OwnPrice, ...]

    @field_validator("currency")
    @classmethod
    def _is_dollars(cls, currency: str) -> str:
        if currency != "USD":
            raise ValueError(f"prices are in US dollars: the currency must be USD, not {currency!r}")
        return currency

    @model_validator(mode="after")
    def _do_not_overlap(self) -> Self:
        for (number, one), (other_number, other) in combinations(enumerate(self.prices), 2):
            same = (one.provider, one.model) == (other.provider, other.model)
            if same and (one.version.covers(other.valid_from) or other.version.covers(one.valid_from)):
                raise ValueError(
                    f"prices.{number} and prices.{other_number} overlap: {one.provider} {one.model} has both of them"
                    f" at {max(one.valid_from, other.valid_from):%Y-%m-%d %H:%M} UTC"
                )
        return self


def read_own_prices(path: Path) -> list[Version]:
    """The versions that the file wants. Raises `ConfigurationError` naming what is wrong."""
    try:
        # All scalars as they are written: no rate becomes a binary fraction on its way.
        document: Any = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # noqa: S506 - makes text only
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The price file {path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"The price file {path} is not YAML: {error}.") from error
    try:
        return [price.version for price in OwnPrices.model_validate(document).prices]
    except ValidationError as error:
        lines = (f"{_place(one['loc'])}: {one['msg'].removeprefix('Value error, ')}" for one in error.errors())
        raise ConfigurationError(f"The price file {path} is not usable: {'; '.join(lines)}.") from error


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "the file"
