"""The persister's settings."""

from __future__ import annotations

from common.settings import Health, Postgres, Rabbit, Redis, ServiceSettings


class PersisterSettings(ServiceSettings):
    """What the process needs."""

    rabbit: Rabbit
    postgres: Postgres
    redis: Redis
    health: Health = Health()
