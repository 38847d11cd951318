"""Billing's settings."""

from __future__ import annotations

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
