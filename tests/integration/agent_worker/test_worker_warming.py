"""Providers that are warmed up, through the real SDKs: nothing is bought, and nothing is left to do."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from agent_worker.providers.rotation import Rotating
from agent_worker.providers.scripted import Scripted
from agent_worker.providers.warming import warm_up
from tests.integration.agent_worker.test_worker_providers import APIS, ask, asking, connected, text


@asynccontextmanager
async def server(answer: bytes = b"") -> AsyncIterator[str]:
    """Answers whatever it is asked with this; with nothing it is silent, and does not hang up."""
    over = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        if not answer:
            await over.wait()
        writer.close()

    listening = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
        over.set()


async def audited_calls(control: httpx2.AsyncClient) -> int:
    answer: dict[str, Any] = (await control.get("/control/audit", params={"totals": "1"})).json()
    return int(answer["totals"]["calls"])


@pytest.mark.parametrize("api", APIS)
async def test_nothing_is_asked_of_a_model_and_the_first_call_is_as_any_other(
    simulator: str, control: httpx2.AsyncClient, api: str
) -> None:
    provider = Rotating(lambda key: connected(api, simulator, key, silence=60), ["one", "two"])
    before = await audited_calls(control)
    with capture_logs() as logs:
        await warm_up([provider, Scripted()], seconds=60)
    assert logs == []
    assert await audited_calls(control) == before
    pieces, meter = await ask(provider, asking("[[sim text=hello]] hi"))
    assert (text(pieces), meter.final) == ("hello", True)
    await provider.close()


_FRESH = """
import asyncio, sys
from tests.integration.agent_worker.test_worker_providers import ask, asking, connected
from agent_worker.providers.warming import warm_up

async def main():
    provider = connected(sys.argv[1], sys.argv[2], silence=60)
    await warm_up([provider], 60)
    known = set(sys.modules)
    await ask(provider, asking("[[sim tokens=3]] hi"))
    print(*sorted(set(sys.modules) - known))
    await provider.close()

asyncio.run(main())
"""


@pytest.mark.timeout(300)
@pytest.mark.parametrize("api", APIS)
async def test_a_fresh_process_has_nothing_left_to_import_at_its_first_call(simulator: str, api: str) -> None:
    fresh = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _FRESH, api, simulator, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(240):
        said, wrong = await fresh.communicate()
    assert fresh.returncode == 0, wrong.decode()
    assert not [name for name in said.decode().split() if name.startswith(("anthropic", "openai"))]


@pytest.mark.parametrize("api", APIS)
async def test_a_provider_that_is_away_is_logged_and_harmless(api: str, unused_tcp_port: int) -> None:
    provider = connected(api, f"http://127.0.0.1:{unused_tcp_port}", silence=60)
    with capture_logs() as logs:
        await warm_up([provider], seconds=60)
    assert [(log["event"], log["reason"]) for log in logs] == [("provider.not_warm", "provider_unavailable")]
    await provider.close()


@pytest.mark.parametrize("api", APIS)
@pytest.mark.parametrize(
    ("status", "reason"),
    [(b"401 Unauthorized", "provider_refused_credentials"), (b"404 Not Found", "provider_refused_request")],
)
async def test_an_endpoint_that_lists_nothing_is_logged_and_harmless(api: str, status: bytes, reason: str) -> None:
    async with server(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n") as url:
        provider = connected(api, url, silence=60)
        with capture_logs() as logs:
            await warm_up([provider], seconds=60)
        await provider.close()
    assert [(log["event"], log["reason"]) for log in logs] == [("provider.not_warm", reason)]


async def test_one_that_says_nothing_keeps_the_worker_waiting_for_no_longer_than_it_may() -> None:
    async with server() as url:
        providers = [connected(api, url, silence=60) for api in APIS]
        with capture_logs() as logs:
            async with asyncio.timeout(30):
                await warm_up(providers, seconds=0.2)
        for provider in providers:
            await provider.close()
    assert [(log["event"], log["reason"]) for log in logs] == [("provider.not_warm", "time_out")] * 3
