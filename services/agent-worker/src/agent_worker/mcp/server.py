"""An MCP server as a worker knows it, whoever named it: an operator for an agent, or a tenant for its own runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from uuid import UUID

from common.catalogue import McpServer

# No operator's server has an underscore in its name: so no tenant's tool can be called what one of an agent's is.
_OF_TENANTS = "my_"


@dataclass(frozen=True, slots=True)
class Auth:
    """A header that says who asks."""

    header: str
    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Server:
    """Where it is, and how far it is believed."""

    name: str
    """What the names of its tools begin with."""
    timeout_seconds: float
    url: str | None = None
    command: tuple[str, ...] = ()
    private: bool = False
    """The operator's own: its URL may lead anywhere."""
    bearer_file: Path | None = None
    auth: Auth | None = None
    tools: tuple[str, ...] | None = None
    """The only ones that are taken, by its own names; None: all."""
    trusted: bool = True
    """Whether it is believed where it says of a tool that it only reads."""
    ask: bool = False
    """A person is to approve each call that has side effects, whatever the agent."""
    tenant_id: UUID | None = None
    """Whose it is; None: the operator's."""

    @classmethod
    def of_agent(cls, declared: McpServer) -> Self:
        """As the catalogue has it."""
        return cls(
            name=declared.name,
            timeout_seconds=declared.timeout_seconds,
            url=declared.url,
            command=declared.command,
            private=declared.private,
            bearer_file=declared.bearer_file,
            tools=declared.tools,
        )

    @staticmethod
    def name_of_tenants(name: str) -> str:
        """What the tools of a tenant's server are called, whatever the operator's are."""
        return _OF_TENANTS + name

    @property
    def counted_as(self) -> str:
        """In metrics, which are not to grow with the tenants."""
        return self.name if self.tenant_id is None else "_tenants"


@dataclass(frozen=True, slots=True)
class Registered:
    """A tenant's server, and the agents that have its tools."""

    server: Server
    agents: frozenset[str]
