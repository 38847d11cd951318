"""The body of an MCP server that a tenant registers for its own runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Annotated, Any
from urllib.parse import SplitResult, urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.requests import Request

from common.addresses import WEB_PORTS, Network, is_within, may_reach
from common.catalogue import Catalogue
from gateway import problems
from gateway.failures import invalid, invalid_field
from gateway.requests import json_body
from gateway.schemas import Text

MOST_SERVERS = 10
_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")
_HEADER = re.compile(r"[A-Za-z0-9-]{1,64}")
# What HTTP, or the protocol over it, says with them is not a tenant's to say.
_TAKEN = re.compile(
    r"accept.*|connection|content-.*|cookie|expect|host|keep-alive|last-event-id|mcp-.*|origin|proxy-.*|te|trailer"
    r"|transfer-encoding|upgrade|user-agent|via|x-forwarded-.*",
    re.IGNORECASE,
)


def _header(name: str) -> str:
    if not _HEADER.fullmatch(name):
        raise ValueError("must be a header's name: up to 64 letters, digits and `-`")
    if _TAKEN.fullmatch(name):
        raise ValueError(f"{name} is no header to authenticate with: it has a meaning of its own")
    return name


def _secret(value: str) -> str:
    if not (value.isascii() and value.isprintable()) or value != value.strip():
        raise ValueError("must have printable ASCII characters only, and no blanks around them")
    return value


def _once_each(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"has {twice[0]!r} twice")
    return names


Name = Annotated[Text, Field(min_length=1, max_length=100)]


class McpAuth(BaseModel):
    """A header that says who asks."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    header: Annotated[str, AfterValidator(_header)] = Field(default="Authorization", examples=["X-Api-Key"])
    value: Annotated[str, AfterValidator(_secret)] = Field(
        min_length=1, max_length=4096, examples=["Bearer 3f9c0a"], description="never shown again", repr=False
    )


class McpServerRequest(BaseModel):
    """A server of tools that speaks the Model Context Protocol over streamable HTTP."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    url: Text = Field(
        min_length=1,
        max_length=2000,
        examples=["https://mcp.example.org/mcp"],
        description="of its endpoint, on the public web",
    )
    agents: Annotated[tuple[Name, ...], AfterValidator(_once_each)] = Field(
        min_length=1, max_length=50, examples=[["default"]], description="the agents that have its tools in your tasks"
    )
    auth: McpAuth | None = Field(default=None, description="sent to the host of the URL, and to no other")
    tools: Annotated[tuple[Name, ...], AfterValidator(_once_each)] | None = Field(
        default=None, min_length=1, max_length=64, description="only these, by the server's names; null: all"
    )
    timeout_seconds: float = Field(default=30, ge=1, le=60, description="of one call")
    ask: bool = Field(default=False, description="each call that has side effects waits for a person's approval")
    trust_annotations: bool = Field(
        default=False,
        description="believe the server where it says that a tool only reads; else each tool counts as one with side"
        " effects: it is run once at most, and its answers are not kept",
    )


_REQUEST: TypeAdapter[McpServerRequest] = TypeAdapter(McpServerRequest)


async def read_server(request: Request, catalogue: Catalogue, networks: Sequence[Network]) -> McpServerRequest:
    """The checked body. Raises `Problem`."""
    body = await json_body(request)
    try:
        server = _REQUEST.validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        if details[0]["type"] == "json_invalid":
            raise problems.INVALID.problem("The body is not JSON.") from error
        raise invalid(details) from error
    if (reason := why_not(server.url, networks)) is not None:
        raise invalid_field("url", reason)
    for name in server.agents:
        agent = catalogue.agent(name)
        if agent is None:
            raise invalid_field("agents", f"there is no agent {name!r}")
        if not agent.tenant_mcp:
            raise invalid_field("agents", f"the agent {name!r} takes no tools of tenants' servers")
    return server


def is_name(text: str) -> bool:
    """Whether a server can be called so."""
    return _NAME.fullmatch(text) is not None


def why_not(url: str, networks: Sequence[Network]) -> str | None:
    """Why nothing can be there for us; None: what can be known here is right. A name is resolved by who connects."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if not url.isascii() or not url.isprintable() or " " in url or not parts.hostname:
        return "must be a URL with a host, as in https://mcp.example.org/mcp"
    if parts.username is not None or parts.password is not None:
        return "must not have a user or a password in it: use `auth`"
    if parts.fragment:
        return "must not have a fragment"
    if parts.scheme != "https" and not (parts.scheme == "http" and networks):
        return "must begin with https://"
    return _why_not_there(parts, port or {"http": 80}.get(parts.scheme, 443), networks)


def _why_not_there(parts: SplitResult, port: int, networks: Sequence[Network]) -> str | None:
    try:
        address = ip_address(parts.hostname or "")
    except ValueError:
        on_the_web = port in WEB_PORTS and parts.hostname != "localhost"
        return None if networks or on_the_web else "must be on the public web, at port 443"
    if is_within(address, networks) or (port in WEB_PORTS and may_reach(address)):
        return None
    return "must be on the public web, at port 443: this address is private, or its port is another"


EXAMPLES: dict[str, dict[str, Any]] = {
    "crm": {
        "summary": "A customer database, whose writes wait for a person",
        "value": {
            "url": "https://mcp.example.org/mcp",
            "agents": ["default"],
            "auth": {"value": "Bearer 3f9c0a"},
            "ask": True,
            "trust_annotations": True,
        },
    },
}
