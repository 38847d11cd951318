"""`/v1/mcp-servers`: servers of tools that a tenant names for its own runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from asyncpg import Record
from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from common.addresses import Network
from common.catalogue import Catalogue
from common.errors import StoreUnavailable
from gateway import problems
from gateway.documentation import mcp_server_body, mcp_server_parameters, problem_responses
from gateway.failures import invalid_parameter
from gateway.mcp_documents import McpServerDocument, McpServerList
from gateway.mcp_records import McpServers
from gateway.mcp_schemas import MOST_SERVERS, is_name, read_server
from gateway.principals import Principals
from gateway.routes.admin import Administration, admin_router
from gateway.routes.raw import SECURED, Json, RawRoute
from gateway.schemas import Text

_ADDRESS = "/v1/mcp-servers"
_SHOWN = (
    "name", "url", "agents", "tools", "timeout_seconds", "ask", "trust_annotations", "created_at", "updated_at",
)  # fmt: skip


def registering_mcp(
    principals: Principals, servers: McpServers, catalogue: Catalogue, networks: Sequence[Network]
) -> APIRouter:
    """New ones, and changes; `networks` are those that they may be in beside the public internet."""
    router = APIRouter(route_class=RawRoute, tags=["mcp servers"], dependencies=[SECURED])

    @router.put(
        "/v1/mcp-servers/{name}",
        summary="Register an MCP server, or put it in the place of the one with this name",
        openapi_extra=mcp_server_body(),
        responses={
            200: {"model": McpServerDocument, "description": "In the place of the one before"},
            201: {"model": McpServerDocument},
            **problem_responses("too-large", "unsupported-media-type", "invalid-request"),
        },
    )
    async def register(request: Request) -> Response:
        """Your tasks of the agents that it names have its tools, called `my_<name>__<tool>`, in runs that begin ten
        seconds later or more. It is replaced as a whole: what `auth` was is forgotten where it is left out."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        name = request.path_params["name"]
        if not is_name(name):
            raise invalid_parameter(
                "name", "must be up to 20 lower-case letters, digits and `-`, and begin with a letter"
            )
        server = await read_server(request, catalogue, networks)
        try:
            verdict = await servers.put(principal.tenant_id, name, server)
            if verdict == "full":
                raise problems.INVALID.problem(
                    f"A tenant has at most {MOST_SERVERS} MCP servers: delete one that is not needed any more."
                )
            row = await servers.find(principal.tenant_id, name)
        except StoreUnavailable as error:
            raise problems.unavailable("The server may have been registered: ask again.") from error
        if row is None:  # deleted since
            raise _no_such_server()
        return Json(_view(row), 201 if verdict == "added" else 200)

    return router


def reading_mcp(principals: Principals, servers: McpServers) -> APIRouter:
    """Those that are registered."""
    router = APIRouter(route_class=RawRoute, tags=["mcp servers"], dependencies=[SECURED])

    @router.get(
        "/v1/mcp-servers",
        summary="List your MCP servers",
        responses={200: {"model": McpServerList}, **problem_responses()},
    )
    async def listed(request: Request) -> Response:
        """By their names, without what authenticates us there."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        return Json({"items": [_view(row) for row in await servers.all(principal.tenant_id)]})

    @router.get(
        "/v1/mcp-servers/{name}",
        summary="Read an MCP server",
        openapi_extra=mcp_server_parameters(),
        responses={200: {"model": McpServerDocument}, **problem_responses("not-found")},
    )
    async def read(request: Request) -> Response:
        """Without what authenticates us there."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        row = await servers.find(principal.tenant_id, _known(request))
        if row is None:
            raise _no_such_server()
        return Json(_view(row))

    @router.delete(
        "/v1/mcp-servers/{name}",
        status_code=204,
        summary="Delete an MCP server",
        openapi_extra=mcp_server_parameters(),
        responses=problem_responses("not-found"),
    )
    async def delete(request: Request) -> Response:
        """Runs that begin ten seconds later or more have no tool of it; those that run keep what they have."""
        principal = await principals.authenticate(request.headers.get("authorization"))
        try:
            found = await servers.delete(principal.tenant_id, _known(request))
        except StoreUnavailable as error:
            raise problems.unavailable("The server may have been deleted: ask again.") from error
        if not found:
            raise _no_such_server()
        return Response(status_code=204)

    return router


def mcp_of_tenants(administration: Administration, servers: McpServers) -> APIRouter:
    """Where tenants' runs lead, for operators."""
    router = admin_router(administration)

    @router.get(
        "/tenants/{tenant_id}/mcp-servers",
        summary="List a tenant's MCP servers",
        responses={200: {"model": McpServerList}, **problem_responses("not-found", "invalid-request")},
    )
    async def listed(tenant_id: UUID) -> Response:
        """By their names, without what authenticates us there."""
        return Json({"items": [_view(row) for row in await servers.all(tenant_id)]})

    @router.delete(
        "/tenants/{tenant_id}/mcp-servers/{name}",
        status_code=204,
        summary="Delete a tenant's MCP server",
        responses=problem_responses("not-found", "invalid-request"),
    )
    async def delete(tenant_id: UUID, name: Annotated[Text, Path(max_length=64)]) -> Response:
        """Runs that begin ten seconds later or more have no tool of it."""
        if not await servers.delete(tenant_id, name):
            raise _no_such_server()
        return Response(status_code=204)

    return router


def _known(request: Request) -> str:
    """The name in an address. What no server can be called names none. Raises `Problem`."""
    name: str = request.path_params["name"]
    if not is_name(name):
        raise _no_such_server()
    return name


def _no_such_server() -> problems.Problem:
    """Another tenant's reads the same as none."""
    return problems.NOT_FOUND.problem("There is no such MCP server.")


def _view(row: Record) -> dict[str, Any]:
    auth = {"header": row["auth_header"]} if row["auth_header"] is not None else None
    links = {"self": f"{_ADDRESS}/{row['name']}"}
    return {**{name: row[name] for name in _SHOWN}, "auth": auth, "links": links}
