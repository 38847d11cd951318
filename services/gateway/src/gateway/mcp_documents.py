"""What clients read of the MCP servers that they have registered, as `/docs` describes it; as in `documents`."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from gateway.documents import Document


class McpLinks(Document):
    """Where a client goes on."""

    self: str


class McpAuthShown(Document):
    """The header that says who asks, without what it says."""

    header: str


class McpServerDocument(Document):
    """A server of tools that the tenant has registered."""

    name: str = Field(description="its tools are called `my_<name>__<tool>`")
    url: str
    agents: list[str]
    auth: McpAuthShown | None
    tools: list[str] | None
    timeout_seconds: float
    ask: bool
    trust_annotations: bool
    created_at: datetime
    updated_at: datetime
    links: McpLinks


class McpServerList(Document):
    """All of a tenant's, by their names."""

    items: list[McpServerDocument]
