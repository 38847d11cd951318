"""What the gateway must be told; see `common.settings` for the names and the sources."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field

from common.settings import ApiKey, Networks, Port, Postgres, Rabbit, Redis, Seconds, ServiceSettings

_ADMIN_KEY_LENGTH = 20


def _long(key: ApiKey) -> ApiKey:
    if len(key.get_secret_value()) < _ADMIN_KEY_LENGTH:
        raise ValueError(f"it has fewer than {_ADMIN_KEY_LENGTH} characters")
    return key


class Http(BaseModel):
    """Where the interface is served, and how it stops."""

    host: str = "0.0.0.0"  # noqa: S104 - tenants come from outside
    port: Port = 8000
    replicas: int = Field(
        default=1, ge=1, le=10_000, description="gateways that share a tenant's rate when Redis is away"
    )
    drain_seconds: Seconds = Field(default=2.0, le=300, description="from red readiness to the end of open streams")


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
    admin_key: Annotated[ApiKey, AfterValidator(_long)] | None = Field(
        default=None, description="unset: there is no admin API"
    )
    mcp_networks: Networks = Field(
        default=(),
        description="networks, separated by commas, that tenants' MCP servers may be in beside the public internet;"
        " the workers are told the same",
    )
    simulated: bool = Field(default=False, description="answers come from the local simulator, and are marked so")
