"""SQL on prices: whether each model of the catalogue has one, looked at before a worker takes its first task."""

from __future__ import annotations

import structlog

from common import postgres
from common.catalogue import Catalogue
from common.errors import ConfigurationError, StoreUnavailable
from common.postgres import Pool

_log = structlog.get_logger(__name__)
_UNPRICED = "SELECT provider, model FROM billing.unpriced($1, $2)"


async def check_prices(pool: Pool, timeout: float, catalogue: Catalogue) -> None:
    """Raises `ConfigurationError` naming the models that have no price: no call of them could be held against a cap.

    Without PostgreSQL nothing is known of prices, and no call is made: the worker waits for it as for any server.
    """
    providers, models = zip(*((model.provider, model.name) for model in catalogue.models), strict=True)
    try:
        async with postgres.acquire(pool, timeout) as connection:
            rows = await connection.fetch(_UNPRICED, providers, models)
    except StoreUnavailable as error:
        _log.warning("prices.unchecked", error=str(error))
        return
    if rows:
        named = ", ".join(f"{row['model']!r} of {row['provider']}" for row in rows)
        raise ConfigurationError(
            f"These models of the catalogue have no price now: {named}. Give them one with"
            " `laneway-billing prices apply`, or take them out of models.yaml."
        )
