"""What the gateway must be told; see `common.settings` for the names and the sources."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, Field, SecretStr, model_validator

from common.settings import Postgres, Rabbit, Redis, ServiceSettings

_ADMIN_KEY_LENGTH = 20


class Http(BaseModel):
    """Where the interface is served, and how it stops."""

    host: str = "0.0.0.0"  # noqa: S104 - tenants come from outside
    port: int = Field(default=8000, ge=0, le=65535)
    replicas: int = Field(default=1, ge=1, description="gateways that share a tenant's rate when Redis is away")
    drain_seconds: float = Field(default=2.0, ge=0, description="from red readiness to the end of open streams")


class CatalogueFiles(BaseModel):
    """Where the operator's YAML files are."""

    dir: Path


class Settings(ServiceSettings):
    """Everything the gateway reads from its environment."""

    rabbit: Rabbit
    postgres: Postgres
    redis: Redis
    catalogue: CatalogueFiles
    http: Http = Http()
    admin_key: SecretStr | None = Field(default=None, description="unset: there is no admin API")
    simulated: bool = Field(default=False, description="answers come from the local simulator, and are marked so")

    @model_validator(mode="after")
    def _admin_key_is_long(self) -> Self:
        if self.admin_key is not None and len(self.admin_key.get_secret_value()) < _ADMIN_KEY_LENGTH:
            raise ValueError(f"LANEWAY_ADMIN_KEY has fewer than {_ADMIN_KEY_LENGTH} characters: use a longer one")
        return self
