"""MCP servers that tenants name: whose tools they are, what they are called, and where they cannot lead."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx2
import pytest

from agent_worker.mcp.remembering import Remembering
from agent_worker.mcp.server import Auth, Registered, Server
from agent_worker.mcp.servers import McpServers, Tenants
from agent_worker.mcp.transport import TooLargeError, Transport
from agent_worker.providers.base import ToolCall
from agent_worker.tools.base import Tool, Toolbox, ToolResult
from agent_worker.tools.builtin import builtin_tools
from agent_worker.tools.guard import Guard
from common.catalogue import Agent, Approvals, McpServer
from common.errors import StoreUnavailable
from tests.unit.agent_worker.mcp_serving import over_http
from tests.unit.agent_worker.web import moved, page, serving, silence

SECONDS = 60.0
TENANT = uuid4()
HERE = (ip_network("127.0.0.0/8"),)


@pytest.fixture
async def address(unused_tcp_port: int, tmp_path: Path) -> AsyncIterator[str]:
    async with over_http(unused_tcp_port, tmp_path) as url:
        yield url


class Registry:
    """What PostgreSQL would say."""

    def __init__(self, *servers: Server, agents: tuple[str, ...] = ("a",)) -> None:
        self.servers, self.agents = servers, frozenset(agents)
        self.asked: list[UUID] = []
        self.away = False

    async def registered(self, tenant_id: UUID) -> tuple[Registered, ...]:
        """Of one tenant."""
        self.asked.append(tenant_id)
        if self.away:
            raise StoreUnavailable("away")
        return tuple(Registered(server, self.agents) for server in self.servers if server.tenant_id == tenant_id)


def server(url: str, name: str = "post", **terms: Any) -> Server:
    """As the repository makes it of a row."""
    given = {"timeout_seconds": 30.0, "trusted": False, "tenant_id": TENANT, **terms}
    return Server(name=Server.name_of_tenants(name), url=url, **given)


def mcp(registry: Registry, allowed: Any = HERE, **more: Any) -> McpServers:
    tenants = Tenants(registry.registered, Guard(allowed=allowed))
    return McpServers(Guard(), **{"list_seconds": SECONDS, "tenants": tenants, **more})


async def boxed(servers: McpServers, tenant: UUID | None = TENANT, **terms: Any) -> Toolbox:
    agent = Agent(**{"name": "a", "version": 1, "system": "", "model": "m", **terms})
    return await servers.toolbox(agent, Toolbox(builtin_tools(), agent.approvals), tenant)


def foreign(box: Toolbox) -> set[str]:
    return {spec.name for spec in box.specs} - builtin_tools().keys()


async def called(box: Toolbox, name: str, **arguments: Any) -> ToolResult:
    return await box.run(ToolCall("1", f"my_post__{name}", arguments))


async def test_a_tenants_tools_are_its_own_under_names_of_their_own(address: str) -> None:
    registry = Registry(server(address, tools=("add", "send")))
    servers = mcp(registry)
    box = await boxed(servers)
    assert foreign(box) == {"my_post__add", "my_post__send"}
    assert (await called(box, "add", a=40, b=2)).content == "42"
    assert not foreign(await boxed(servers, uuid4())), "another tenant's"
    assert not foreign(await boxed(servers, None))
    assert not foreign(await boxed(servers, name="b")), "an agent that it is not for"
    assert not foreign(await boxed(servers, tenant_mcp=False)), "an agent that takes none"


async def test_no_tool_takes_the_place_of_another(address: str) -> None:
    operators = McpServer(name="post", url=address, private=True, tools=("add",))
    box = await boxed(mcp(Registry(server(address, tools=("add",)))), mcp=(operators,))
    assert foreign(box) == {"post__add", "my_post__add"}

    async def mine() -> str:
        """The operator's."""
        return "mine"

    own = Toolbox({"my_post__add": Tool.of(mine, name="my_post__add")})
    agent = Agent(name="a", version=1, system="", model="m")
    box = await mcp(Registry(server(address, tools=("add",)))).toolbox(agent, own, TENANT)
    assert (await called(box, "add")).content == "mine"
    assert box.missing == ({"server": "my_post", "tool": "add", "reason": "another tool has this name"},)


async def test_what_a_server_says_of_its_tools_is_believed_where_the_tenant_does(address: str) -> None:
    add, send = ToolCall("1", "my_post__add", {"a": 1, "b": 2}), ToolCall("2", "my_post__send", {"to": "ann"})
    for trusted, ask, harms, asks in (
        (False, False, (True, True), (False, False)),
        (True, False, (False, True), (False, False)),
        (False, True, (True, True), (True, True)),
        (True, True, (False, True), (False, True)),
    ):
        box = await boxed(mcp(Registry(server(address, trusted=trusted, ask=ask))))
        assert (box.harms_twice(add), box.harms_twice(send)) == harms
        assert (box.asks(add), box.asks(send)) == asks
    box = await boxed(mcp(Registry(server(address))), approvals=Approvals(tools="side_effects"))
    assert box.asks(add), "the agent's own rule counts too"


async def test_an_answer_that_is_larger_than_it_looks_is_not_read() -> None:
    bomb = page(gzip.compress(b" " * 50_000_000), "application/json", Content_Encoding="gzip")
    async with serving({"/mcp": bomb}) as web:
        box = await boxed(mcp(Registry(server(f"http://127.0.0.1:{web.port}/mcp"))))
    assert "CompressedError" in str(box.missing)


async def test_what_is_read_of_a_connections_answers_is_bounded_for_all_of_them_together() -> None:
    async with (
        serving({"/": page(b"x" * 3_000_000)}) as web,
        httpx2.AsyncClient(transport=Transport(Guard(allowed=HERE)), trust_env=False) as client,
    ):
        assert len((await client.get(f"http://127.0.0.1:{web.port}/")).content) == 3_000_000
        with pytest.raises(TooLargeError):
            await client.get(f"http://127.0.0.1:{web.port}/")


async def test_who_asks_is_told_in_the_header_and_shown_nowhere(address: str) -> None:
    bearer = server(address, auth=Auth("Authorization", "Bearer s3cret"))
    assert (await called(await boxed(mcp(Registry(bearer))), "who")).content == "Bearer s3cret None"
    key = server(address, auth=Auth("X-Api-Key", "s3cret"))
    assert (await called(await boxed(mcp(Registry(key))), "who")).content == "None s3cret"
    assert "s3cret" not in repr(bearer)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:9/mcp", "http://169.254.169.254/latest", "http://[::ffff:10.0.0.1]/mcp", "http://localhost/mcp"],
)
async def test_a_tenants_url_leads_to_no_private_place(url: str) -> None:
    box = await boxed(mcp(Registry(server(url)), allowed=()))
    assert not foreign(box)
    assert "not on the public web" in box.missing[0]["reason"]


async def test_a_name_of_a_private_place_is_led_nowhere(address: str) -> None:
    asked: list[str] = []

    async def inside(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    named = server(address.replace("127.0.0.1", "tools.example"), tools=("add",))
    tenants = Tenants(Registry(named).registered, Guard(inside))
    box = await boxed(McpServers(Guard(inside, HERE), SECONDS, tenants=tenants))
    assert not foreign(box), "where agents' servers may lead is not where tenants' may"
    assert asked == ["tools.example"], "asked once, and no connection was made to it"


async def test_what_a_redirect_leads_to_is_not_told_who_asks() -> None:
    async with serving({}) as elsewhere:
        elsewhere.answers["/stolen"] = moved("/nowhere")
        answers = {"/mcp": moved(f"http://127.0.0.1:{elsewhere.port}/stolen", "307 Temporary Redirect")}
        async with serving(answers) as web:
            named = server(f"http://127.0.0.1:{web.port}/mcp", auth=Auth("X-Api-Key", "s3cret"))
            box = await boxed(mcp(Registry(named), list_seconds=10))
            assert not foreign(box)
            assert web.asked
            assert elsewhere.asked == []


async def test_servers_that_are_away_or_slow_cost_their_own_tools(address: str) -> None:
    async with silence("/mcp") as slow:
        registry = Registry(
            server(address, tools=("add", "slow"), timeout_seconds=2.0),
            server("http://127.0.0.1:9/mcp", "away"),
            server(f"http://127.0.0.1:{slow.port}/mcp", "slow"),
        )
        box = await boxed(mcp(registry, list_seconds=15))
        assert foreign(box) == {"my_post__add", "my_post__slow"}
        assert {one["server"] for one in box.missing} == {"my_away", "my_slow"}
        cut = await called(box, "slow")
        assert cut.is_error
        assert not (await called(box, "add", a=1, b=1)).is_error


async def test_together_they_have_no_more_tools_than_one_may(unused_tcp_port: int, tmp_path: Path) -> None:
    async with over_http(unused_tcp_port, tmp_path, "many") as url:
        some = [tuple(f"t{number}" for number in range(start, start + 40)) for start in (0, 40)]
        named = (server(url, name, tools=tools) for name, tools in zip(("one", "two"), some, strict=True))
        box = await boxed(mcp(Registry(*named)))
    assert len(foreign(box)) == 64
    assert "the tenant's servers together have more than 64 tools" in str(box.missing)
    assert len(box.missing) <= 64


async def test_what_is_registered_and_listed_is_remembered(address: str) -> None:
    registry = Registry(server(address, tools=("add",)))
    servers = mcp(registry)
    await asyncio.gather(*(boxed(servers) for _ in range(5)))
    assert registry.asked == [TENANT]
    registry.away = True
    assert foreign(await boxed(servers)) == {"my_post__add"}
    with pytest.raises(StoreUnavailable):
        await boxed(servers, uuid4())


async def test_what_was_known_is_used_on_while_nobody_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent_worker.mcp.servers._REGISTERED_SECONDS", 0.0)
    registry = Registry(server("http://127.0.0.1:9/mcp"))
    servers = mcp(registry, list_seconds=4)
    await boxed(servers)
    registry.away = True
    assert (await boxed(servers)).missing[0]["server"] == "my_post"
    assert registry.asked == [TENANT, TENANT]


async def test_no_more_is_remembered_than_there_is_room_for() -> None:
    asked: list[int] = []

    async def ask(key: int, before: int | None) -> tuple[float, int]:
        assert before is None
        asked.append(key)
        return 100.0, key

    remembering = Remembering(ask, 2)
    for key in (1, 2, 1, 3, 1, 2):
        assert await remembering.get(key) == key
    assert asked == [1, 2, 3, 2]
