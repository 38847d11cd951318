"""The migration job, `python -m deploy.migrations`: makes the database, brings its schema up to date, and gives the
services' roles their passwords. Safe to run again, and by several at a time.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
from alembic import command
from alembic.config import Config
from psycopg.sql import SQL, Identifier, Literal
from pydantic import BaseModel, SecretStr
from sqlalchemy import create_engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from common.settings import PostgresDsn, ServiceSettings, load

_LOCK = 7_316_001
_INI = Path(__file__).with_name("alembic.ini")


class ManagedPostgres(BaseModel):
    """An administrator's way in, and the passwords that the services' roles shall have."""

    admin_dsn: PostgresDsn
    password_gateway: SecretStr
    password_agent_worker: SecretStr
    password_persister: SecretStr
    password_billing: SecretStr

    def passwords(self) -> dict[str, str]:
        """Password by role."""
        return {
            "laneway_gateway": self.password_gateway.get_secret_value(),
            "laneway_worker": self.password_agent_worker.get_secret_value(),
            "laneway_persister": self.password_persister.get_secret_value(),
            "laneway_billing": self.password_billing.get_secret_value(),
        }


class MigrateSettings(ServiceSettings):
    """What the migration job needs."""

    postgres: ManagedPostgres


def migrate(postgres: ManagedPostgres) -> None:
    """Bring the database to the newest schema. One migrates at a time; the others wait and find it done."""
    dsn = postgres.admin_dsn.get_secret_value()
    # Roles belong to the cluster, so the lock must too: it is taken in the maintenance database.
    with psycopg.connect(_at(dsn, path="/postgres"), connect_timeout=10, autocommit=True) as guard:
        guard.execute("SET lock_timeout = '120s'")
        guard.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        _ensure_database(guard, urlsplit(dsn).path.lstrip("/"))
        _upgrade(dsn)
        for role, password in postgres.passwords().items():
            guard.execute(SQL("ALTER ROLE {} LOGIN PASSWORD {}").format(Identifier(role), Literal(password)))


def _ensure_database(guard: psycopg.Connection, name: str) -> None:
    if guard.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
        guard.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))


def _upgrade(dsn: str) -> None:
    engine = create_engine(_at(dsn, scheme="postgresql+psycopg"), poolclass=NullPool)
    try:
        with engine.begin() as connection:
            config = Config(str(_INI))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


def _at(dsn: str, **parts: str) -> str:
    return urlsplit(dsn)._replace(**parts).geturl()


def main() -> int:
    """Run the job; exit code 1 where the database cannot be reached."""
    settings = load(MigrateSettings)
    try:
        migrate(settings.postgres)
    except (psycopg.Error, SQLAlchemyError) as error:
        sys.stderr.write(f"The migration did not succeed: {error!r}\n")
        return 1
    sys.stdout.write("The schema is up to date.\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
