"""Billing's settings."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, Field

from common.settings import Health, Postgres, Rabbit, Seconds, ServiceSettings


class Sweep(BaseModel):
    """When a hold whose usage record never came is given up."""

    interval: Seconds = Field(default=5, gt=0, description="seconds between two sweeps")
    grace: Seconds = Field(default=10, gt=0, description="seconds a hold may stay open after its run has moved on")
    doubt: Seconds = Field(default=120, gt=0, description="seconds a hold stays in doubt before it is voided")
    size: int = Field(default=500, ge=1, le=100_000, description="holds that one transaction moves at most")


class BillingSettings(ServiceSettings):
    """What the process needs."""

    rabbit: Rabbit
    postgres: Postgres
    health: Health = Health()
    sweep: Sweep = Sweep()


class CatalogueFiles(BaseModel):
    """Where the operator's YAML files are."""

    dir: Path


class PriceFiles(BaseModel):
    """Where one's own prices are."""

    file: Path | None = Field(default=None, description="YAML, see billing.own_prices; unset: the bundle's alone")


class ConsoleSettings(ServiceSettings):
    """What `laneway-billing` needs, for all of its commands."""

    postgres: Postgres


class PriceSettings(ConsoleSettings):
    """What it needs to compare the price book with what is wanted."""

    catalogue: CatalogueFiles
    prices: PriceFiles = PriceFiles()
