"""Tiers, models, agents and the rules of `auto`, as the operator's YAML files declare them; checked whole when read.

The gateway reads them to refuse what does not exist, the worker to run it, the topology job to make the lanes.
"""

from __future__ import annotations

from collections.abc import Container
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.errors import ConfigurationError

_LAST_WATERMARK = 0.4
# Well below the time after which the broker takes a delivery from its consumer (the policy `lanes`).
LONGEST_RUN_SECONDS = 3 * 3600
AUTO = "auto"
"""Named in place of a model: the rules decide."""
# What each file declares, by its keys.
_FILES = {"tiers": ("tiers",), "models": ("models", "auto"), "agents": ("agents",)}
ModelClass = Literal["simple", "standard", "strong"]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tier(_Entry):
    """A class of service. Tiers are listed best first; each has a lane of its own."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,30}$")
    weight: int = Field(ge=1, description="share of a worker's guaranteed slots")
    watermark: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="the part of a provider's limits that is left to better tiers; by default 0 for the best, evenly"
        " up to 0.4 for the last",
    )


class Price(_Entry):
    """Where the price of a model is found in the price bundle."""

    provider: str
    model: str


class Model(_Entry):
    """A model as a provider serves it."""

    name: str
    provider: Literal["anthropic", "openai", "scripted"]
    api: Literal["messages", "chat", "responses", "scripted"]
    window: int = Field(ge=1, description="tokens of input and output together")
    max_output: int = Field(ge=1, description="tokens")
    requests_per_minute: int | None = Field(default=None, ge=1, le=1_000_000_000)
    tokens_per_minute: int | None = Field(default=None, ge=1, le=1_000_000_000_000)
    class_: ModelClass = Field(alias="class")
    price: Price
    fallbacks: tuple[str, ...] = Field(
        default=(), description="the models that answer, in this order, where this one cannot; theirs are not followed"
    )


class AutoRule(_Entry):
    """Gives tasks that fit all of its conditions to the first declared model of a class."""

    class_: ModelClass = Field(alias="class")
    longer_than: int | None = Field(default=None, ge=0, description="characters of the task's input")
    tools: bool | None = Field(default=None, description="whether the agent has tools")
    keywords: tuple[str, ...] = Field(
        default=(), description="one of which the newest message has, as a whole word or phrase, in whatever case"
    )

    @property
    def fits_all(self) -> bool:
        """Whether it has no conditions."""
        return self.longer_than is None and self.tools is None and not self.keywords


class Approvals(_Entry):
    """Which tool calls of an agent wait for a person, and what becomes of those that nobody decides on."""

    tools: tuple[str, ...] | Literal["side_effects"] = Field(
        default=(), description="by name, or all that have side effects; besides those that are always to be approved"
    )
    timeout_seconds: float = Field(default=24 * 3600, gt=0, le=30 * 24 * 3600, description="for a decision")
    on_timeout: Literal["deny", "approve", "expire"] = Field(
        default="deny", description="what is then done: the calls are denied or approved, or the run ends as expired"
    )


class McpServer(_Entry):
    """A server of tools that speaks the Model Context Protocol: one that is reached over HTTP, or a program."""

    name: str = Field(pattern=r"^[a-z][a-z0-9-]{0,19}$", description="its tools are called `<name>__<tool>`")
    url: str | None = Field(default=None, pattern=r"^https?://\S+$", description="of its streamable HTTP endpoint")
    command: tuple[str, ...] = Field(default=(), description="the program and its arguments, which talks on its pipes")
    private: bool = Field(
        default=False, description="the operator's own: its URL may lead to where the public web does not"
    )
    bearer_file: Path | None = Field(default=None, description="what is sent as `Authorization: Bearer`")
    tools: tuple[str, ...] | None = Field(default=None, description="only these, by the server's names; unset: all")
    timeout_seconds: float = Field(default=30, gt=0, le=600, description="of one call")

    @model_validator(mode="after")
    def _is_reached_one_way(self) -> Self:
        if (self.url is None) == (not self.command):
            raise ValueError(f"MCP server {self.name!r} needs a `url` or a `command`, and not both")
        return self


class Agent(_Entry):
    """A named way to run a task."""

    name: str
    version: int = Field(ge=1)
    system: str
    model: str
    tools: tuple[str, ...] = ()
    mcp: tuple[McpServer, ...] = Field(default=(), description="servers whose tools it has beside its own")
    tenant_mcp: bool = Field(default=True, description="whether tenants may give it the tools of MCP servers of theirs")
    approvals: Approvals = Approvals()
    max_steps: int = Field(default=20, ge=1, le=100)
    max_output_tokens: int = Field(default=4096, ge=1, description="per model call")
    max_run_tokens: int | None = Field(
        default=None, ge=1, description="of input and output, over all calls of a run: the next step is then the last"
    )
    max_output_bytes: int = Field(
        default=400_000, ge=1, le=800_000, description="of all that its model says in a run, which ends there"
    )
    history_summary_tokens: int | None = Field(
        default=None,
        ge=64,
        le=8192,
        description="of a summary of what its window leaves out of a conversation, made by a model call; unset: none",
    )
    temperature: float | None = Field(default=None, ge=0, le=2)
    timeout_seconds: float = Field(
        default=600, gt=0, le=LONGEST_RUN_SECONDS, description="wall clock of a whole run, takeovers included"
    )


class Catalogue(_Entry):
    """Everything that is declared, with every reference resolved."""

    tiers: tuple[Tier, ...] = Field(min_length=1)
    models: tuple[Model, ...] = Field(min_length=1)
    agents: tuple[Agent, ...] = Field(min_length=1)
    auto: tuple[AutoRule, ...] = ()
    """The first that fits decides; without rules there is no `auto`."""

    @model_validator(mode="after")
    def _names_are_unique_and_resolve(self) -> Self:
        for what in (self.tiers, self.models, self.agents):
            names = [entry.name for entry in what]
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{type(what[0]).__name__.lower()} {name!r} is declared twice")
        for agent in self.agents:
            servers = [server.name for server in agent.mcp]
            if len(servers) > len(set(servers)):
                raise ValueError(f"agent {agent.name!r} has two MCP servers of one name")
            if not self.models_for(agent.model):
                raise ValueError(f"agent {agent.name!r} names the model {agent.model!r}, which is not declared")
        return self

    @model_validator(mode="after")
    def _fallbacks_lead_somewhere_else(self) -> Self:
        for model in self.models:
            chain = [model.name]
            for name in model.fallbacks:
                if self.model(name) is None:
                    raise ValueError(f"model {model.name!r} falls back to {name!r}, which is not declared")
                if name in chain:
                    circle = ", ".join([*chain, name])
                    raise ValueError(f"the fallbacks of model {model.name!r} go round in a circle: {circle}")
                chain.append(name)
        return self

    @model_validator(mode="after")
    def _auto_picks_for_every_task(self) -> Self:
        if self.model(AUTO) is not None:
            raise ValueError(f"no model can be named {AUTO!r}: the name stands for the rules that pick one")
        for number, rule in enumerate(self.auto, 1):
            if self.first_of(rule.class_) is None:
                raise ValueError(f"rule {number} of `auto` picks a {rule.class_} model, and none is declared")
            if rule.fits_all != (number == len(self.auto)):
                raise ValueError(
                    f"rule {number} of `auto` {'has no' if rule.fits_all else 'has'} conditions: the last rule, and it"
                    " alone, is to fit every task"
                )
        return self

    @model_validator(mode="after")
    def _better_tiers_leave_less(self) -> Self:
        watermarks = list(self.watermarks.items())
        for (better, kept), (tier, also_kept) in pairwise(watermarks):
            if also_kept < kept:
                raise ValueError(
                    f"tier {tier!r} has the watermark {also_kept:g} and the better tier {better!r} {kept:g}: what a"
                    " better tier leaves in the bucket must not be more"
                )
        return self

    def model(self, name: str) -> Model | None:
        """The model of that name."""
        return next((model for model in self.models if model.name == name), None)

    def models_for(self, name: str) -> tuple[Model, ...]:
        """Those of which one answers where this name is asked for, fallbacks aside; none: there is no such name."""
        asked = [self.first_of(rule.class_) for rule in self.auto] if name == AUTO else [self.model(name)]
        return tuple(model for model in asked if model is not None)

    def first_of(
        self, class_: ModelClass, apis: Container[str] | None = None, names: Container[str] | None = None
    ) -> Model | None:
        """The first declared model of a class, of those that are served over one of these APIs, and of these names,
        where they are given.
        """
        fitting = (model for model in self.models if model.class_ == class_ and (names is None or model.name in names))
        return next((model for model in fitting if apis is None or model.api in apis), None)

    def agent(self, name: str) -> Agent | None:
        """The agent of that name."""
        return next((agent for agent in self.agents if agent.name == name), None)

    @property
    def watermarks(self) -> dict[str, float]:
        """By tier: the part of a provider's limits that it leaves to better ones."""
        step = _LAST_WATERMARK / max(1, len(self.tiers) - 1)
        return {
            tier.name: number * step if tier.watermark is None else tier.watermark
            for number, tier in enumerate(self.tiers)
        }

    @property
    def tier_names(self) -> tuple[str, ...]:
        """Best first."""
        return tuple(tier.name for tier in self.tiers)


def load_catalogue(directory: Path) -> Catalogue:
    """Read `tiers.yaml`, `models.yaml` and `agents.yaml`. Raises `ConfigurationError` naming what is wrong."""
    parts: dict[str, Any] = {}
    for name, keys in _FILES.items():
        path = directory / f"{name}.yaml"
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigurationError(f"The catalogue file {path} cannot be read: {error.strerror}.") from error
        except yaml.YAMLError as error:
            raise ConfigurationError(f"The catalogue file {path} is not YAML: {error}.") from error
        declared = document if isinstance(document, dict) else {}
        if unknown := [key for key in declared if key not in keys]:
            known = " and ".join(keys)
            raise ConfigurationError(f"The catalogue file {path} has {unknown[0]!r}, which is nothing: it has {known}.")
        # A first key that is not there is an error; those after it may be left out.
        parts |= {key: declared.get(key) for key in keys if key == keys[0] or declared.get(key) is not None}
    try:
        return Catalogue.model_validate(parts)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "catalogue"
        raise ConfigurationError(f"The catalogue in {directory} is not usable: {where}: {first['msg']}.") from error
