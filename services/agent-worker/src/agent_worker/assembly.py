"""What every worker is made of, whether it takes tasks from the lanes or is given one: all but its consumers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import httpx2

from agent_worker.limiter.provider_limits import ProviderLimits
from agent_worker.mcp.servers import McpServers, Tenants
from agent_worker.mcp_records import McpRecords
from agent_worker.price_records import check_prices
from agent_worker.providers.anthropic import AnthropicMessages
from agent_worker.providers.base import Provider
from agent_worker.providers.openai import client as openai_client
from agent_worker.providers.openai_chat import OpenAIChat
from agent_worker.providers.openai_responses import OpenAIResponses
from agent_worker.providers.rotation import KeyKeeper, Rotating
from agent_worker.providers.scripted import Scripted
from agent_worker.quarantine import Quarantine
from agent_worker.repository import RunRepository
from agent_worker.resilience.breakers import Breakers
from agent_worker.resilience.deadlines import Deadlines, Timed
from agent_worker.resilience.retry import Retry
from agent_worker.response_cache import Responses
from agent_worker.runner import Equipment, Runner
from agent_worker.settings import WorkerSettings, read_keys
from agent_worker.staffing import Staffing
from agent_worker.stream_writer import StreamWriter
from agent_worker.supervisor import Supervisor
from agent_worker.telemetry import Observed
from agent_worker.tool_records import ToolRecords
from agent_worker.tools.builtin import toolboxes
from agent_worker.tools.guard import Guard
from agent_worker.tools.offered import offered
from common import postgres, redis
from common.catalogue import Catalogue
from common.errors import CacheUnavailable
from common.lifecycle import stop
from common.messaging.connection import Broker
from common.messaging.publisher import RabbitPublisher, publisher
from common.messaging.topology import AGENT_WORKER
from common.pipelining import Pipelined
from common.postgres import Pool

_REDIS_CONNECTIONS = 4


@dataclass(frozen=True)
class Assembled:
    """A worker that is ready to run what it is given."""

    worker: str
    pool: Pool
    state: redis.Client
    publisher: RabbitPublisher
    broker: Broker
    repository: RunRepository
    supervisor: Supervisor
    providers: tuple[Provider, ...]
    """As they are reached, without what watches them."""
    tasks: tuple[asyncio.Task[None], ...]
    """Its background tasks: none of them ends by itself."""


@asynccontextmanager
async def assembled(
    settings: WorkerSettings, catalogue: Catalogue, worker: str, quarantine: Quarantine | None
) -> AsyncIterator[Assembled]:
    """Open every connection, and begin what goes on in the background; taken down in reverse."""
    async with AsyncExitStack() as stack:
        boxes = toolboxes(catalogue, await stack.enter_async_context(offered(settings)))
        pool = await stack.enter_async_context(postgres.pool(settings.postgres, AGENT_WORKER, role="laneway_worker"))
        await check_prices(pool, settings.postgres.timeout, catalogue)
        state = await stack.enter_async_context(
            redis.client(
                settings.redis.state_url.get_secret_value(),
                timeout=settings.redis.timeout,
                connections=_REDIS_CONNECTIONS,
            )
        )
        publish = await stack.enter_async_context(publisher(settings.rabbit, AGENT_WORKER))
        broker = await stack.enter_async_context(Broker(settings.rabbit, f"{AGENT_WORKER}/consume"))
        repository = RunRepository(pool, settings.postgres.timeout, timedelta(seconds=settings.lease_seconds))
        supervisor = Supervisor(repository, settings.lease_seconds)
        pipelined = Pipelined(state, settings.redis.timeout)
        writer = StreamWriter(pipelined, supervisor.fenced_off)
        limits = ProviderLimits(pipelined, catalogue, settings.workers)
        breakers = Breakers(pipelined, catalogue)
        providers, keys, reached = await stack.enter_async_context(_providers(settings, breakers))
        staffing = Staffing(catalogue, providers, breakers)
        staffing.report_unreachable()
        equipment = Equipment(
            settings=settings,
            worker=worker,
            staffing=staffing,
            toolboxes=boxes,
            tool_records=ToolRecords(pool, settings.postgres.timeout),
            repository=repository,
            publisher=publish,
            writer=writer,
            redis=pipelined,
            limits=limits,
            retry=Retry(),
            responses=await stack.enter_async_context(_responses(settings)),
            mcp=_mcp(settings, pool),
            quarantine=quarantine,
        )
        supervisor.runner = Runner(equipment, supervisor.note_run)
        tasks = (
            asyncio.create_task(supervisor.keep_leases(), name="leases"),
            asyncio.create_task(writer.run(), name="streams"),
            asyncio.create_task(limits.run(), name="limits"),
            asyncio.create_task(breakers.run(), name="breakers"),
            asyncio.create_task(keys.run(), name="keys"),
        )
        try:
            yield Assembled(worker, pool, state, publish, broker, repository, supervisor, reached, tasks)
            with contextlib.suppress(CacheUnavailable):  # PostgreSQL has, or will have, the same events
                await writer.flush()
        finally:
            await stop(*tasks)


def _mcp(settings: WorkerSettings, pool: Pool) -> McpServers:
    registered = McpRecords(pool, settings.postgres.timeout).of
    tenants = Tenants(registered, Guard(allowed=settings.mcp_networks))
    return McpServers(Guard(allowed=settings.fetch_networks), tenants=tenants)


@asynccontextmanager
async def _responses(settings: WorkerSettings) -> AsyncIterator[Responses]:
    address = settings.redis.cache_url
    if address is None or not settings.response_cache_seconds:
        yield Responses()
        return
    url, timeout = address.get_secret_value(), settings.redis.timeout
    async with redis.client(url, timeout=timeout, connections=1) as client:
        yield Responses(Pipelined(client, timeout), settings.response_cache_seconds)


@asynccontextmanager
async def _providers(
    settings: WorkerSettings, breakers: Breakers
) -> AsyncIterator[tuple[dict[str, Provider], KeyKeeper, tuple[Provider, ...]]]:
    """By API, as runs have them; who keeps their keys; and as they are reached."""
    timeout = httpx2.Timeout(settings.first_token_timeout, connect=5.0)
    connections = settings.slots + 8
    rotating: dict[str, dict[str, Rotating]] = {}
    if (anthropic := settings.anthropic) is not None:
        messages = partial(AnthropicMessages, base_url=anthropic.base_url, timeout=timeout, connections=connections)
        rotating["anthropic"] = {"messages": Rotating(messages, anthropic.keys)}
    if (openai := settings.openai) is not None:
        client = partial(openai_client, base_url=openai.base_url, timeout=timeout, connections=connections)
        rotating["openai"] = {
            "chat": Rotating(lambda key: OpenAIChat(client(key)), openai.keys),
            "responses": Rotating(lambda key: OpenAIResponses(client(key)), openai.keys),
        }
    providers: dict[str, Provider] = {"scripted": Scripted()}
    for clients in rotating.values():
        providers |= clients
    try:
        deadlines = Deadlines(settings.first_token_timeout, settings.call_timeout)
        kept = {name: tuple(clients.values()) for name, clients in rotating.items()}
        keeper = KeyKeeper(read_keys, kept, breakers.trust)
        observed: dict[str, Provider] = {api: Observed(Timed(one, deadlines)) for api, one in providers.items()}
        yield observed, keeper, tuple(providers.values())
    finally:
        for provider in providers.values():
            await provider.close()
