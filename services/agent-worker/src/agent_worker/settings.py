"""What an agent worker is told: its slots and lanes, the providers' keys, and the servers it uses."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, Field, model_validator
from pydantic_settings import NoDecode

from agent_worker.budgets import Patience
from common.messaging.topology import DELIVERY_LIMIT
from common.settings import (
    PREFIX,
    SEPARATED,
    ApiKey,
    Health,
    HttpUrl,
    Networks,
    Postgres,
    Rabbit,
    Redis,
    Seconds,
    ServiceSettings,
)

LaneNames = Annotated[tuple[str, ...], NoDecode, SEPARATED, Field(min_length=1)]


class CatalogueFiles(BaseModel):
    """Where the operator's YAML files are."""

    dir: Path


class ProviderAccess(BaseModel):
    """A key, or several separated by commas, and an address other than the provider's own."""

    api_key: ApiKey
    base_url: HttpUrl | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """Each of them, once."""
        return tuple(dict.fromkeys(filter(None, self.api_key.get_secret_value().split(","))))

    @model_validator(mode="after")
    def _some_key(self) -> Self:
        if not self.keys:
            raise ValueError("there is no key between the commas")
        return self


class Budgets(BaseModel):
    """How long open holds are waited for that leave too little of a budget."""

    settling: Seconds = Field(default=60.0, le=3600, description="seconds, by a task with on_budget_exhausted `fail`")
    waiting: Seconds = Field(default=900.0, le=86_400, description="seconds, by a task with `wait`")
    slot: Seconds = Field(default=5.0, le=3600, description="seconds until a `wait` or `park` task gives its slot back")

    @property
    def patience(self) -> Patience:
        """The same for a run."""
        return Patience(self.settling, self.waiting, self.slot)


class ProviderSettings(ServiceSettings):
    """How the providers are reached. Their keys are read again and again, to be changed while a worker runs."""

    anthropic: ProviderAccess | None = None
    openai: ProviderAccess | None = None


def read_keys() -> dict[str, tuple[str, ...]]:
    """The providers' keys as they are now. Raises `ValueError` where they are not usable."""
    settings = ProviderSettings()
    reached = {"anthropic": settings.anthropic, "openai": settings.openai}
    return {provider: access.keys for provider, access in reached.items() if access is not None}


class WorkerSettings(ProviderSettings):
    """The settings of one agent-worker process."""

    rabbit: Rabbit
    postgres: Postgres
    redis: Redis
    catalogue: CatalogueFiles
    health: Health = Health()
    lanes: LaneNames | None = Field(
        default=None, description="the tiers that this worker serves, separated by commas; unset: all"
    )
    slots: int = Field(default=20, ge=1, le=10_000, description="runs at a time")
    workers: int = Field(
        default=2,
        ge=1,
        le=10_000,
        description="agent-worker processes: without Redis each keeps to its share of a provider's limits",
    )
    lease_seconds: Seconds = Field(
        default=4.0, ge=1, le=600, description="a run whose worker is silent this long is taken over"
    )
    grace_seconds: Seconds = Field(default=25.0, le=3600, description="how long runs may go on after SIGTERM")
    first_token_timeout: Seconds = Field(
        default=60.0, gt=0, le=3600, description="seconds until a model begins to answer, and of silence after that"
    )
    call_timeout: Seconds = Field(default=600.0, gt=0, le=3600, description="seconds that one model call may take")
    response_cache_seconds: Seconds = Field(
        default=3600.0, description="how long an answer may be given again to the same request; 0: never"
    )
    max_attempts: int = Field(
        default=5, ge=1, lt=DELIVERY_LIMIT, description="acquisitions of one run before it is given up"
    )
    retire_after_runs: int | None = Field(
        default=None,
        ge=1,
        le=1_000_000_000,
        description="runs after which the worker drains and ends, for a fresh one; unset: never",
    )
    retire_above_mb: int | None = Field(
        default=None,
        ge=64,
        le=10_000_000,
        description="megabytes of memory above which it does; unset: whatever it takes up",
    )
    tool_processes: int = Field(default=2, ge=1, le=1000, description="processes for tools that compute")
    fetch_networks: Networks = Field(
        default=(),
        description="networks, separated by commas, that `fetch_url` may reach beside the public internet",
    )
    mcp_networks: Networks = Field(
        default=(),
        description="networks, separated by commas, that tenants' MCP servers may be in beside the public internet;"
        " the gateway is told the same",
    )
    provider_retries: int = Field(
        default=5,
        ge=0,
        lt=DELIVERY_LIMIT,
        description="how often a run whose models are all away is left for later, before it fails",
    )
    quarantine_after: int = Field(
        default=2, ge=1, lt=DELIVERY_LIMIT, description="workers that died with a run, after which it is run alone"
    )
    budgets: Budgets = Budgets()
    simulated: bool = Field(default=False, description="the providers are a simulator: said in the log")

    @model_validator(mode="after")
    def _some_provider(self) -> Self:
        if self.anthropic is None and self.openai is None:
            raise ValueError("No model provider has a key: set LANEWAY_ANTHROPIC_API_KEY or LANEWAY_OPENAI_API_KEY.")
        return self


def worker_name() -> str:
    """Names this process in leases, logs and the management UI."""
    return f"{socket.gethostname()}-{os.getpid()}"


def environment_of_tools() -> dict[str, str]:
    """What processes that compute for tools are told: where programs and modules are, and none of our secrets."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
