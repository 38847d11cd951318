"""The price book in time: what applies when, and what a change of it comes to. Pure.

The versions of a model lie side by side on the line of valid time. What is wanted is laid over what the book says:
one's own prices over the bundle's, and both over what is booked. Where the rates are the same, what is booked stays.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import groupby, pairwise

from billing.pricebook import BookedPrice, Rates

ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
"""From here on is from the beginning: there were no model calls before."""
_END = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Version:
    """The rates of one model from one time to another."""

    provider: str
    model: str
    rates: Rates
    valid_from: datetime
    valid_until: datetime | None
    """None: without end."""
    source: str
    price_id: int | None = None
    """Its row, if it is in the book."""

    def covers(self, at: datetime) -> bool:
        """Whether it applies at a time."""
        return self.valid_from <= at < (self.valid_until or _END)


@dataclass(frozen=True, slots=True)
class Change:
    """Other rates for a model in a time; `before` is None where it had none."""

    provider: str
    model: str
    valid_from: datetime
    valid_until: datetime | None
    before: Rates | None
    after: Rates
    source: str


@dataclass(frozen=True, slots=True)
class Difference:
    """What is to be superseded, and what recorded, for the changes to come about."""

    changes: tuple[Change, ...]
    superseded: tuple[Version, ...]
    recorded: tuple[Version, ...]

    @property
    def digest(self) -> str:
        """Of all that would be written, so that what is applied is what was reviewed."""
        written = {
            "superseded": sorted(version.price_id or 0 for version in self.superseded),
            "recorded": [version_document(version) for version in self.recorded],
        }
        return hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()


def version_document(version: Version) -> dict[str, object]:
    """A version as it is kept in the log of changes, equal amounts as equal text."""
    return {
        "provider": version.provider,
        "model": version.model,
        "from": version.valid_from.astimezone(UTC).isoformat(),
        "until": version.valid_until.astimezone(UTC).isoformat() if version.valid_until else None,
        **{name: f"{rate.normalize():f}" for name, rate in rates_by_class(version.rates).items()},
        "source": version.source,
    }


def rates_by_class(rates: Rates) -> dict[str, Decimal]:
    """By the names that the price file has for them."""
    return {field.name: getattr(rates, field.name) for field in fields(rates)}


def difference(
    booked: Sequence[Version], bundled: Sequence[BookedPrice], own: Sequence[Version], effective: datetime
) -> Difference:
    """What would change. The bundle's prices apply from `effective` on, and always to a model that has none yet."""
    changes: list[Change] = []
    superseded: list[Version] = []
    recorded: list[Version] = []
    named: list[Version | BookedPrice] = [*booked, *bundled, *own]
    for name in sorted({_name(one) for one in named}):
        there = [one for one in booked if _name(one) == name]
        begin = effective if there else ALWAYS
        offered = [Version(*name, one.rates, begin, None, one.source) for one in bundled if _name(one) == name]
        pieces = _laid_over(there, [*(one for one in own if _name(one) == name), *offered])
        line = _joined(pieces)
        kept = {one.price_id for one in line}
        superseded += [one for one in there if one.price_id not in kept]
        recorded += [one for one in line if one.price_id is None]
        changes += _changes(pieces)
    return Difference(tuple(changes), tuple(superseded), tuple(recorded))


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of a model's line within which nothing begins or ends."""

    begin: datetime
    end: datetime
    booked: Version | None
    stands: Version | None
    """What shall be the case."""

    @property
    def until(self) -> datetime | None:
        return None if self.end == _END else self.end


def _laid_over(booked: Sequence[Version], wanted: Sequence[Version]) -> list[_Piece]:
    """The model's line; of `wanted` the first that covers a time counts."""
    versions = [*booked, *wanted]
    bounds = {one.valid_from for one in versions} | {one.valid_until or _END for one in versions}
    return [_piece(begin, end, booked, wanted) for begin, end in pairwise(sorted(bounds))]


def _piece(begin: datetime, end: datetime, booked: Sequence[Version], wanted: Sequence[Version]) -> _Piece:
    there = next((one for one in booked if one.covers(begin)), None)
    asked = next((one for one in wanted if one.covers(begin)), None)
    stays = asked is None or (there is not None and there.rates == asked.rates)
    return _Piece(begin, end, there, there if stays else asked)


def _joined(pieces: Sequence[_Piece]) -> list[Version]:
    """The versions that make the line: those of the book that stay whole, and new ones for all else."""
    line = []
    for _, run in groupby(pieces, key=lambda piece: id(piece.stands)):
        first, *_, last = [*(parts := list(run)), parts[-1]]
        if first.stands is not None:
            line.append(_version(first.stands, first.begin, last.until))
    return line


def _version(stands: Version, begin: datetime, until: datetime | None) -> Version:
    whole = (stands.valid_from, stands.valid_until) == (begin, until)
    return stands if whole else replace(stands, valid_from=begin, valid_until=until, price_id=None)


def _changes(pieces: Sequence[_Piece]) -> list[Change]:
    changes = []
    for (before, stands), run in groupby(pieces, key=_told):
        parts = list(run)
        if stands is not None and before != stands.rates:
            first = replace(stands, valid_from=parts[0].begin, valid_until=parts[-1].until)
            changes.append(
                Change(
                    first.provider, first.model, first.valid_from, first.valid_until, before, first.rates, first.source
                )
            )
    return changes


def _told(piece: _Piece) -> tuple[Rates | None, Version | None]:
    return piece.booked.rates if piece.booked else None, piece.stands


def _name(one: Version | BookedPrice) -> tuple[str, str]:
    return one.provider, one.model
