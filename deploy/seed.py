"""The seed job, `python -m deploy.seed`: plans, prices of the catalogue's models, and, where a file is named for their
keys, three demo tenants. Safe to run again: what is there stays as it is.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import psycopg
import uuid_utils.compat
from pydantic import BaseModel

from billing.pricebook import BookedPrice, bundled_prices
from common.catalogue import load_catalogue
from common.errors import ConfigurationError
from common.settings import PostgresDsn, ServiceSettings, load
from gateway.keys import ApiKey


class AdminPostgres(BaseModel):
    """An administrator's way in."""

    admin_dsn: PostgresDsn


class CatalogueFiles(BaseModel):
    """Where the operator's YAML files are."""

    dir: Path


class SeedOptions(BaseModel):
    """What to seed beyond plans and prices."""

    demo_file: Path | None = None


class SeedSettings(ServiceSettings):
    """What the seed job needs."""

    postgres: AdminPostgres
    catalogue: CatalogueFiles
    seed: SeedOptions = SeedOptions()


@dataclass(frozen=True)
class Plan:
    """A plan as it is first made; operators change it in the database."""

    name: str
    tier: str
    requests_per_minute: int
    max_outstanding: int
    caps: tuple[str, str, str, str]
    """US dollars: a run, a user and day, a tenant and day, a tenant and month."""


PLANS = (
    Plan("enterprise", "enterprise", 60_000, 100_000, ("5", "100", "1000", "20000")),
    Plan("pro", "pro", 6_000, 20_000, ("1", "20", "200", "2000")),
    Plan("free", "free", 600, 2_000, ("0.25", "2", "5", "20")),
)

_INSERT_PLAN = """
INSERT INTO identity.plans (name, tier, requests_per_minute, max_outstanding,
                            run_cap_usd, user_day_cap_usd, tenant_day_cap_usd, tenant_month_cap_usd)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (name) DO NOTHING
"""
_INSERT_PRICE = """
INSERT INTO billing.prices (provider, model, valid_from, input_mtok, cache_read_mtok, cache_write_5m_mtok,
                            cache_write_1h_mtok, output_mtok, source)
SELECT %(provider)s, %(model)s, 'epoch', %(input)s, %(cache_read)s, %(cache_write_5m)s, %(cache_write_1h)s, %(output)s,
       %(source)s
WHERE NOT EXISTS (SELECT FROM billing.prices WHERE provider = %(provider)s AND model = %(model)s)
"""
_INSERT_TENANT = "INSERT INTO identity.tenants (tenant_id, name, plan) VALUES (%s, %s, %s)"
_INSERT_KEY = "INSERT INTO identity.api_keys (key_id, tenant_id, secret_hash, name) VALUES (%s, %s, %s, 'demo')"


def seed(connection: psycopg.Connection, prices: list[BookedPrice]) -> None:
    """Plans and prices that are not there yet."""
    for plan in PLANS:
        limits = (plan.requests_per_minute, plan.max_outstanding)
        connection.execute(_INSERT_PLAN, (plan.name, plan.tier, *limits, *plan.caps))
    for price in prices:
        connection.execute(
            _INSERT_PRICE,
            {
                "provider": price.provider,
                "model": price.model,
                "input": price.rates.input,
                "cache_read": price.rates.cache_read,
                "cache_write_5m": price.rates.cache_write_5m,
                "cache_write_1h": price.rates.cache_write_1h,
                "output": price.rates.output,
                "source": price.source,
            },
        )


def seed_demo(connection: psycopg.Connection) -> list[str]:
    """One tenant of each plan; the lines that name their keys."""
    lines = []
    for plan in PLANS:
        key, tenant = ApiKey.mint(), uuid_utils.compat.uuid7()
        connection.execute(_INSERT_TENANT, (tenant, f"Demo {plan.name}", plan.name))
        connection.execute(_INSERT_KEY, (key.key_id, tenant, key.secret_hash))
        lines.append(f"LANEWAY_KEY_{plan.name.upper()}={key.token}\n")
    return lines


def keep(lines: list[str], file: Path) -> None:
    """Put the keys where only their owner may read them; the file is there whole or not at all."""
    aside = file.with_name(f"{file.name}.new")
    aside.touch(mode=0o600)
    aside.write_text("".join(lines), encoding="utf-8")
    aside.replace(file)


def main() -> int:
    """Run the job; exit code 1 where the database cannot be reached, 2 where the catalogue is not usable."""
    settings = load(SeedSettings)
    try:
        prices = bundled_prices(load_catalogue(settings.catalogue.dir))
        with psycopg.connect(settings.postgres.admin_dsn.get_secret_value(), connect_timeout=10) as connection:
            connection.execute("SET ROLE laneway_owner")
            seed(connection, prices)
            file = settings.seed.demo_file
            keys = seed_demo(connection) if file and not file.exists() else []
        # Only once they are committed: keys that no database knows would keep all later runs from making others.
        if file and keys:
            keep(keys, file)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except (OSError, psycopg.Error) as error:
        sys.stderr.write(f"The seed did not succeed: {error!r}\n")
        return 1
    sys.stdout.write("Plans and prices are in place.\n")
    return os.EX_OK


if __name__ == "__main__":
    raise SystemExit(main())
