"""`laneway-billing months`: what plans take and give for months that are over."""

from __future__ import annotations

import sys
from argparse import Namespace
from uuid import UUID

from billing import month_records
from billing.closing import Closed, MonthOpenError, UnknownTenantError, close_month
from billing.price_commands import TIMEOUT, opened
from billing.settings import ConsoleSettings
from billing.tables import table
from common.errors import ConfigurationError
from common.postgres import transaction
from common.settings import load


async def close(given: Namespace) -> int:
    """Close a month, for one tenant or for all that were there; each is closed or not on its own."""
    closed: dict[UUID, Closed] = {}
    waiting: list[str] = []
    async with opened(load(ConsoleSettings)) as pool:
        async with transaction(pool, TIMEOUT) as connection:
            tenants = [given.tenant] if given.tenant else await month_records.tenants_of(connection, given.month)
        for tenant in tenants:
            try:
                async with transaction(pool, TIMEOUT) as connection:
                    closed[tenant] = await close_month(connection, tenant, given.month)
            except MonthOpenError as error:
                waiting.append(str(error))
            except UnknownTenantError as error:
                raise ConfigurationError(str(error)) from error
    rows = [
        (tenant, one.terms.plan, *(f"{amount:f}" for amount in (one.charges, one.allowance, one.fee, one.owed)))
        for tenant, one in closed.items()
    ]
    sys.stdout.write(table(("TENANT", "PLAN", "CHARGES USD", "ALLOWANCE", "FEE", "OWED"), rows))
    sys.stderr.write("".join(f"{line}\n" for line in dict.fromkeys(waiting)))
    return 1 if waiting else 0
