"""Who runs a task: its agent, the model that was asked for or that the rules pick, and those that stand in for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import structlog

from agent_worker.providers.base import Provider
from agent_worker.resilience.breakers import Breakers
from agent_worker.resilience.chain import Served
from agent_worker.resilience.routing import Asked, pick
from common.catalogue import AUTO, Agent, Catalogue, Model
from common.contracts import TaskSubmitted
from common.contracts.runs import Routing

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Staffed:
    """What a run is given."""

    agent: Agent
    models: tuple[Served, ...]
    """At least one; those after the first are its fallbacks."""
    routing: Routing | None
    """Where the model was left to the rules."""


@dataclass(frozen=True)
class Staffing:
    """The catalogue, and what of it this process can reach."""

    catalogue: Catalogue
    providers: Mapping[str, Provider]
    """By API: `messages`, `chat`, `responses`, `scripted`."""
    breakers: Breakers

    def of(self, task: TaskSubmitted) -> Staffed | None:
        """Who runs this task; None: its agent or model is not known here. The same task gets the same."""
        agent = self.catalogue.agent(task.agent)
        if agent is None:
            return None
        name = task.model or agent.model
        routing = self._routed(task, agent) if name == AUTO else None
        model = self.catalogue.model(routing.model if routing is not None else name)
        if model is None or model.api not in self.providers:
            return None
        chain = (one for one in self._chain(model) if one is model or _allowed(one, task))
        return Staffed(agent, tuple(self._served(one, task, agent) for one in chain), routing)

    def report_unreachable(self) -> None:
        """Say which fallbacks are none here, as their provider has no key."""
        for model in self.catalogue.models:
            gone = [name for name in model.fallbacks if name not in {one.name for one in self._chain(model)}]
            if gone and model.api in self.providers:
                _log.warning("catalogue.fallbacks_without_a_key", model=model.name, fallbacks=gone)

    def _routed(self, task: TaskSubmitted, agent: Agent) -> Routing | None:
        if not self.catalogue.auto:
            return None
        texts = [message.content for message in task.input]
        picked = pick(self.catalogue.auto, Asked(texts, bool(agent.tools or agent.mcp)))
        model, reason = self.catalogue.first_of(picked.model_class, self.providers, task.models), picked.reason
        if model is None and task.models is not None:
            # The plan has none of that class: better another one of the plan's than none.
            reachable = (one for one in self.catalogue.models if one.api in self.providers and _allowed(one, task))
            model, reason = next(reachable, None), f"{reason}; the plan allows none of that class"
        return Routing(model=model.name, reason=reason) if model is not None else None

    def _chain(self, model: Model) -> Iterator[Model]:
        yield model
        for name in model.fallbacks:
            fallback = self.catalogue.model(name)
            if fallback is not None and fallback.api in self.providers:
                yield fallback

    def _served(self, model: Model, task: TaskSubmitted, agent: Agent) -> Served:
        limit = min(task.max_output_tokens or agent.max_output_tokens, model.max_output)
        return Served(model, self.providers[model.api], self.breakers.of(model.name), limit)


def _allowed(model: Model, task: TaskSubmitted) -> bool:
    """Whether the tenant's plan had the model when the task was submitted; `billing.reserve` asks the plan of now."""
    return task.models is None or model.name in task.models
