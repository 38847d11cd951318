"""Tools of real MCP servers over both transports, and of servers that are away, slow, or talk nonsense."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from agent_worker.happenings import Answered, ToolsMissing
from agent_worker.loop import AgentLoop
from agent_worker.mcp.servers import McpServers
from agent_worker.providers.base import TextDelta, ToolCall
from agent_worker.providers.scripted import Scripted
from agent_worker.resilience.retry import Retry
from agent_worker.tools.base import Toolbox, ToolResult
from agent_worker.tools.builtin import builtin_tools, toolboxes
from agent_worker.tools.guard import Guard
from common.catalogue import Agent, Approvals, Catalogue, McpServer, Tier
from common.errors import ConfigurationError
from tests.unit.agent_worker.mcp_serving import PROGRAM, over_http
from tests.unit.agent_worker.serving import model, plan, served
from tests.unit.agent_worker.test_worker_loop import ASKED, Books

SECONDS = 60.0


def program(*arguments: str, **terms: Any) -> McpServer:
    """A server on pipes."""
    return McpServer(name="post", command=(sys.executable, PROGRAM, "stdio", *arguments), **terms)


@pytest.fixture
async def address(unused_tcp_port: int, tmp_path: Path) -> AsyncIterator[str]:
    """A server over HTTP."""
    async with over_http(unused_tcp_port, tmp_path) as url:
        yield url


def servers(**more: Any) -> McpServers:
    return McpServers(Guard(), **{"list_seconds": SECONDS, **more})


async def boxed(mcp: McpServers, *named: McpServer, **terms: Any) -> Toolbox:
    agent = Agent(name="a", version=1, system="", model="m", mcp=named, approvals=Approvals(**terms))
    return await mcp.toolbox(agent, Toolbox(builtin_tools(), agent.approvals))


async def called(box: Toolbox, name: str, **arguments: Any) -> ToolResult:
    return await box.run(ToolCall("1", f"post__{name}", arguments))


def reasons(box: Toolbox) -> dict[str, str]:
    return {one.get("tool", one["server"]): one["reason"] for one in box.missing}


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_a_real_server_is_listed_and_called(transport: str, address: str) -> None:
    server = program() if transport == "stdio" else McpServer(name="post", url=address, private=True)
    box = await boxed(servers(), server)
    assert {spec.name for spec in box.specs} >= {"calculator", "post__add", "post__send"}
    (spec,) = [spec for spec in box.specs if spec.name == "post__add"]
    assert (spec.description, spec.schema["required"]) == ("Add two numbers.", ["a", "b"])
    assert (await called(box, "add", a=40, b=2)).content == "42"
    failed = await called(box, "broken")
    assert (failed.is_error, failed.content) == (True, "Error executing tool broken")
    wrong = await called(box, "add", a="many")
    assert wrong.is_error
    big = await called(box, "big")
    assert big.content.endswith("[68000 more characters were cut off]")


async def test_what_is_not_said_to_read_only_has_side_effects() -> None:
    box = await boxed(servers(), program(), tools="side_effects")
    assert not box.asks(ToolCall("1", "post__add", {"a": 1, "b": 2}))
    assert box.asks(ToolCall("1", "post__send", {"to": "ann"}))


async def test_only_what_is_named_is_offered_and_what_cannot_be_is_told() -> None:
    box = await boxed(servers(), program(tools=("add", "a name with blanks", "none")))
    assert [spec.name for spec in box.specs if spec.name.startswith("post__")] == ["post__add"]
    assert reasons(box).keys() == {"a name with blanks", "none"}
    assert reasons(box)["none"] == "the server has no such tool"


async def test_too_many_tools_are_bounded_and_told() -> None:
    box = await boxed(servers(), program("many"))
    assert sum(spec.name.startswith("post__") for spec in box.specs) == 64
    assert "more than 64 tools" in str(box.missing)


async def test_a_program_is_told_none_of_our_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANEWAY_ANTHROPIC_API_KEY", "secret")
    told = (await called(await boxed(servers(), program()), "environment")).content
    assert "PATH" in told
    assert "LANEWAY" not in told


async def test_a_slow_tool_is_cut_and_its_program_ends_with_it() -> None:
    box = await boxed(servers(), program(timeout_seconds=3))
    result = await called(box, "slow")
    assert result.is_error
    assert "did not finish within 3 s" in result.content or "in time" in result.content


async def test_an_answer_without_end_is_not_read_to_it(address: str) -> None:
    box = await boxed(servers(), McpServer(name="post", url=address, private=True, timeout_seconds=20))
    result = await called(box, "huge")
    assert result.is_error
    assert len(result.content) < 500


@pytest.mark.parametrize(
    ("server", "reason"),
    [
        (McpServer(name="post", command=("/no/such/program",)), "its program cannot be started"),
        (program("garbage"), "in time"),
        (McpServer(name="post", command=(sys.executable, "-c", "raise SystemExit(3)")), "not usable"),
        (McpServer(name="post", url="http://127.0.0.1:9/mcp", private=True), "could not be reached"),
        (McpServer(name="post", url="http://127.0.0.1:9/mcp"), "not on the public web"),
        (McpServer(name="post", url="http://169.254.169.254/latest"), "not on the public web"),
        (McpServer(name="post", url="http://localhost/mcp"), "not on the public web"),
    ],
    ids=["no program", "garbage", "a program that ends", "unreachable", "private", "metadata", "a private name"],
)
async def test_a_server_that_cannot_be_used_costs_its_tools_alone(server: McpServer, reason: str) -> None:
    box = await boxed(servers(list_seconds=4), server)
    assert {spec.name for spec in box.specs} == builtin_tools().keys()
    assert reason in reasons(box)["post"]


async def test_a_name_is_led_only_to_where_it_was_checked(address: str) -> None:
    async def inside(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    port = address.rpartition(":")[2]
    named = McpServer(name="post", url=f"http://tools.example:{port}")
    refused = await boxed(McpServers(Guard(inside), SECONDS), named)
    assert "not on the public web" in reasons(refused)["post"]
    allowed = McpServers(Guard(inside, (ip_network("127.0.0.0/8"),)), SECONDS)
    reached = await boxed(allowed, named)
    assert "not on the public web" not in str(reached.missing), "the guard made the connection"


async def test_a_listing_is_remembered_and_outlives_its_server(tmp_path: Path) -> None:
    counting = tmp_path / "counting.py"
    counting.write_text(f"import pathlib, runpy, sys\np = pathlib.Path({str(tmp_path / 'n')!r})\n"
                        "p.write_text(p.read_text() + 'x' if p.exists() else 'x')\n"
                        f"sys.argv = ['x', 'stdio']\nrunpy.run_path({PROGRAM!r}, run_name='__main__')\n")  # fmt: skip
    server = McpServer(name="post", command=(sys.executable, str(counting)))
    mcp = servers()
    first, again = await asyncio.gather(boxed(mcp, server), boxed(mcp, server))
    assert first.specs == again.specs
    assert (tmp_path / "n").read_text() == "x"
    stale = servers(fresh_seconds=0)
    await boxed(stale, server)
    counting.unlink()
    kept = await boxed(stale, server)
    assert [spec.name for spec in kept.specs] == [spec.name for spec in first.specs]
    assert (await called(kept, "add", a=1, b=2)).is_error


async def test_a_run_goes_on_without_them_and_says_so() -> None:
    box = await boxed(servers(list_seconds=4), McpServer(name="post", command=("/no/such/program",)))
    loop = AgentLoop(plan(served(Scripted(lambda _: (TextDelta("Hi."),)))), box, Books(), Retry())
    first, *_, last = [happening async for happening in loop.run(ASKED)]
    assert isinstance(first, ToolsMissing)
    assert first.tools_missing[0]["server"] == "post"
    assert isinstance(last, Answered)


def test_a_declaration_that_cannot_be_meant_is_refused() -> None:
    for terms in ({}, {"url": "http://x/mcp", "command": ("x",)}, {"url": "ftp://x"}):
        with pytest.raises(ValueError, match=r"post|url"):
            McpServer(name="post", **terms)
    twice = (program(), program())
    agent = Agent(name="a", version=1, system="", model="m", mcp=twice)
    with pytest.raises(ValueError, match="two MCP servers of one name"):
        Catalogue(tiers=(Tier(name="free", weight=1),), models=(model(),), agents=(agent,))


def test_an_agent_may_ask_for_approval_of_a_servers_tool() -> None:
    approvals = Approvals(tools=("post__send",))
    tiers, models = (Tier(name="free", weight=1),), (model(),)
    agent = Agent(name="a", version=1, system="", model="m", mcp=(program(),), approvals=approvals)
    assert (
        toolboxes(Catalogue(tiers=tiers, models=models, agents=(agent,)), builtin_tools())["a"].approvals == approvals
    )
    strange = Agent(name="a", version=1, system="", model="m", approvals=approvals)
    with pytest.raises(ConfigurationError, match="none of its tools"):
        toolboxes(Catalogue(tiers=tiers, models=models, agents=(strange,)), builtin_tools())
