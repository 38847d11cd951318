"""`laneway-billing months` and `invoices`: what tenants owe for a month that is over, each tenant's on its own."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from billing import invoice_records, month_records
from billing.closing import Closed, MonthOpenError, UnknownTenantError, close_month
from billing.price_commands import TIMEOUT, opened
from billing.settings import ConsoleSettings
from billing.tables import table
from common.errors import ConfigurationError
from common.postgres import transaction
from common.settings import load

if TYPE_CHECKING:
    from common.postgres import Connection

Done = TypeVar("Done")


async def close(given: Namespace) -> int:
    """Close a month, for one tenant or for all that were there."""

    async def closing(connection: Connection, tenant: UUID) -> Closed:
        return await close_month(connection, tenant, given.month)

    closed, waiting = await _each(given, closing)
    rows = [
        (tenant, one.terms.plan, *(f"{amount:f}" for amount in (one.charges, one.allowance, one.fee, one.owed)))
        for tenant, one in closed.items()
    ]
    sys.stdout.write(table(("TENANT", "PLAN", "CHARGES USD", "ALLOWANCE", "FEE", "OWED"), rows))
    return _told(waiting)


async def issue(given: Namespace) -> int:
    """Close it and issue the invoices, or what changed since as credit notes."""

    async def issuing(connection: Connection, tenant: UUID) -> invoice_records.Issued | None:
        closed = await close_month(connection, tenant, given.month)
        return await invoice_records.issue(connection, tenant, given.month, closed.terms.plan, given.by)

    issued, waiting = await _each(given, issuing)
    rows = [
        (tenant, f"credit note {one.number}" if one.number else "invoice", f"{one.total:f}")
        for tenant, one in issued.items()
        if one
    ]
    sys.stdout.write(table(("TENANT", "ISSUED", "TOTAL USD"), rows))
    return _told(waiting)


async def _each(
    given: Namespace, action: Callable[[Connection, UUID], Awaitable[Done]]
) -> tuple[dict[UUID, Done], list[str]]:
    """Do it for each tenant in a transaction of its own; what was done, and why the others wait."""
    done: dict[UUID, Done] = {}
    waiting: list[str] = []
    async with opened(load(ConsoleSettings)) as pool:
        async with transaction(pool, TIMEOUT) as connection:
            tenants = [given.tenant] if given.tenant else await month_records.tenants_of(connection, given.month)
        for tenant in tenants:
            try:
                async with transaction(pool, TIMEOUT) as connection:
                    done[tenant] = await action(connection, tenant)
            except MonthOpenError as error:
                waiting.append(str(error))
            except UnknownTenantError as error:
                raise ConfigurationError(str(error)) from error
    return done, waiting


def _told(waiting: list[str]) -> int:
    sys.stderr.write("".join(f"{line}\n" for line in dict.fromkeys(waiting)))
    return 1 if waiting else 0
