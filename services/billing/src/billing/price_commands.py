"""`laneway-billing prices`: a change of the book is reviewed, then applied as it was reviewed."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from billing import price_records, rerating
from billing.own_prices import read_own_prices
from billing.price_versions import ALWAYS, Change, Difference, difference, rates_by_class
from billing.pricebook import Rates, bundled_prices
from billing.settings import ConsoleSettings, PriceSettings
from billing.tables import table
from common import postgres
from common.catalogue import load_catalogue
from common.errors import ConfigurationError
from common.postgres import Pool
from common.settings import load

if TYPE_CHECKING:
    from common.postgres import Connection

# A whole day's calls are looked through in one statement.
TIMEOUT = 120.0


@asynccontextmanager
async def opened(settings: ConsoleSettings) -> AsyncIterator[Pool]:
    """The database, with time for what finance asks of it."""
    patient = settings.postgres.model_copy(update={"timeout": max(settings.postgres.timeout, TIMEOUT)})
    async with postgres.pool(patient, "laneway-billing", role="laneway_billing") as pool:
        yield pool


async def diff(given: Namespace) -> int:
    """Print what would change."""
    settings, effective = load(PriceSettings), given.effective or _next_day()
    async with opened(settings) as pool, postgres.transaction(pool, TIMEOUT) as connection:
        found = await _difference(connection, settings, effective)
    if not found.changes:
        sys.stdout.write("The price book says what is wanted: nothing would change.\n")
        return 0
    sys.stdout.write(_shown(found))
    sys.stdout.write(
        f"\nTo make this change, and no other:\n  laneway-billing prices apply --effective {effective.isoformat()}"
        f" --digest {found.digest} --by YOUR-NAME --reason WHY\n"
    )
    _tell_of_the_past(found)
    return 1


async def apply(given: Namespace) -> int:
    """Make the change whose digest is given."""
    settings, effective = load(PriceSettings), given.effective or _next_day()
    async with opened(settings) as pool, postgres.transaction(pool, TIMEOUT) as connection:
        await price_records.lock_book(connection)
        found = await _difference(connection, settings, effective)
        if found.digest != given.digest:
            sys.stderr.write(
                "This is not the change that was reviewed: the book, the price file, the bundle or the day is another"
                " since. Nothing was changed. Review it again with `laneway-billing prices diff`.\n"
            )
            return 1
        if not found.changes:
            sys.stdout.write("The price book says what is wanted: nothing was changed.\n")
            return 0
        await price_records.apply(connection, found, given.by, given.reason)
    sys.stdout.write(
        f"Applied: {len(found.superseded)} versions are superseded, {len(found.recorded)} recorded."
        " New holds go by them at once; billing prices what was unpriced within seconds.\n"
    )
    _tell_of_the_past(found)
    return 0


async def rerate(given: Namespace) -> int:
    """Print what a period's calls would cost now, or post it."""
    if not given.begin < given.end <= datetime.now(UTC):
        raise ConfigurationError("The period must begin before it ends, and end before now.")
    async with opened(load(ConsoleSettings)) as pool:
        found = await rerating.rerate(pool, TIMEOUT, given.begin, given.end, post=given.post)
    if not found:
        sys.stdout.write("Every call of the period is at the price that the book has for it.\n")
        return 0
    rows: list[tuple[object, ...]] = [
        (tenant, one.calls, _signed(one.cost), _signed(one.charge), " ".join(sorted(one.months)))
        for tenant, one in sorted(found.items())
    ]
    calls, costs = sum(one.calls for one in found.values()), sum(one.cost for one in found.values())
    rows.append(("all", calls, _signed(costs), _signed(sum(one.charge for one in found.values())), ""))
    sys.stdout.write(table(("TENANT", "CALLS", "COST USD", "CHARGE USD", "MONTHS"), rows))
    if given.post:
        sys.stdout.write(
            "\nPosted. Close those of the months again that were closed: `laneway-billing months close`.\n"
        )
        return 0
    sys.stdout.write("\nNothing was posted: run it with --post.\n")
    return 1


async def _difference(connection: Connection, settings: PriceSettings, effective: datetime) -> Difference:
    own = read_own_prices(settings.prices.file) if settings.prices.file else []
    bundled = bundled_prices(load_catalogue(settings.catalogue.dir), effective)
    return difference(await price_records.booked(connection), bundled, own, effective)


def _next_day() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


def _shown(found: Difference) -> str:
    heading = ("PROVIDER", "MODEL", "FROM (UTC)", "UNTIL", "RATE", "BEFORE", "AFTER", "SOURCE")
    return table(heading, [row for change in found.changes for row in _rows(change)])


def _rows(change: Change) -> list[tuple[str, ...]]:
    begin = "always" if change.valid_from == ALWAYS else f"{change.valid_from.astimezone(UTC):%Y-%m-%d %H:%M}"
    end = f"{change.valid_until.astimezone(UTC):%Y-%m-%d %H:%M}" if change.valid_until else "-"
    named = (change.provider, change.model, begin, end)
    before = _texts(change.before) if change.before else {}
    return [
        (*named, name, before.get(name, "none"), rate, change.source)
        for name, rate in _texts(change.after).items()
        if before.get(name) != rate
    ]


def _texts(rates: Rates) -> dict[str, str]:
    return {name: f"{rate.normalize():f}" for name, rate in rates_by_class(rates).items()}


def _signed(amount: object) -> str:
    return f"{amount:+f}"


def _tell_of_the_past(found: Difference) -> None:
    past = [change.valid_from for change in found.changes if change.valid_from < datetime.now(UTC)]
    if past and any(change.before for change in found.changes):
        begin = max(min(past), ALWAYS)
        sys.stdout.write(
            "It reaches into the past. Calls of that time stay at their price until you put them to this one:"
            f" `laneway-billing prices rerate --from {begin.isoformat()} --until …`.\n"
        )
