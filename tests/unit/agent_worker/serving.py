"""Models for tests of the loop: served by a script, behind a circuit that has no Redis to share it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from agent_worker.plan import Plan
from agent_worker.providers.base import Provider
from agent_worker.resilience.breakers import Breaker
from agent_worker.resilience.chain import Served
from agent_worker.resilience.circuit import Rules
from agent_worker.resilience.closing import RunLimits
from common.catalogue import Model, Price
from common.errors import CacheUnavailable
from common.pipelining import Pipelined


class Away:
    """A Redis that is not there."""

    async def run(self, *_: Any) -> Any:
        raise CacheUnavailable("away")

    async def run_each(self, *_: Any) -> Any:
        raise CacheUnavailable("away")


def breaker(name: str = "m", rules: Rules | None = None, on_change: Callable[[], None] = lambda: None) -> Breaker:
    return Breaker(cast(Pipelined, Away()), "anthropic", name, rules or Rules(), on_change)


def model(name: str = "m", *, window: int = 100_000) -> Model:
    price = Price(provider="anthropic", model=name)
    given: dict[str, Any] = {"provider": "anthropic", "api": "scripted", "max_output": window, "class": "simple"}
    return Model(name=name, window=window, price=price, **given)


def served(
    provider: Provider, name: str = "m", *, window: int = 100_000, limit: int = 100, rules: Rules | None = None
) -> Served:
    return Served(model(name, window=window), provider, breaker(name, rules), limit)


def plan(*models: Served, system: str = "be brief", max_steps: int = 5, max_tokens: int | None = None) -> Plan:
    return Plan(models, system, RunLimits(max_steps, max_tokens), None)
