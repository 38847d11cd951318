"""What every worker is made of, whether it takes tasks from the lanes or is given one: all but its consumers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import httpx2

from agent_worker.limiter.provider_limits import ProviderLimits
from agent_worker.mcp.servers import McpServers
from agent_worker.providers.anthropic import AnthropicMessages
from agent_worker.providers.base import Provider
from agent_worker.providers.openai import client as openai_client
from agent_worker.providers.openai_chat import OpenAIChat
from agent_worker.providers.openai_responses import OpenAIResponses
from agent_worker.providers.scripted import Scripted
from agent_worker.quarantine import Quarantine
from agent_worker.repository import RunRepository
from agent_worker.resilience.breakers import Breakers
from agent_worker.resilience.deadlines import Deadlines, Timed
from agent_worker.resilience.retry import Retry
from agent_worker.runner import Equipment, Runner
from agent_worker.settings import WorkerSettings
from agent_worker.staffing import Staffing
from agent_worker.stream_writer import StreamWriter
from agent_worker.supervisor import Supervisor
from agent_worker.telemetry import Observed
from agent_worker.tool_records import ToolRecords
from agent_worker.tools.builtin import toolboxes
from agent_worker.tools.guard import Guard
from agent_worker.tools.offered import offered
from common import postgres, redis
from common.catalogue import Catalogue, load_catalogue
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
    catalogue: Catalogue
    pool: Pool
    state: redis.Client
    publisher: RabbitPublisher
    broker: Broker
    repository: RunRepository
    supervisor: Supervisor
    tasks: tuple[asyncio.Task[None], ...]
    """Its background tasks: none of them ends by itself."""


@asynccontextmanager
async def assembled(settings: WorkerSettings, worker: str, quarantine: Quarantine | None) -> AsyncIterator[Assembled]:
    """Open every connection, and begin what goes on in the background; taken down in reverse."""
    async with AsyncExitStack() as stack:
        catalogue = load_catalogue(settings.catalogue.dir)
        pool = await stack.enter_async_context(postgres.pool(settings.postgres, AGENT_WORKER, role="laneway_worker"))
        tool_records = ToolRecords(pool, settings.postgres.timeout)
        boxes = toolboxes(catalogue, await stack.enter_async_context(offered(settings, tool_records)))
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
        staffing = Staffing(catalogue, await stack.enter_async_context(_providers(settings)), breakers)
        staffing.report_unreachable()
        equipment = Equipment(
            settings=settings,
            worker=worker,
            staffing=staffing,
            toolboxes=boxes,
            tool_records=tool_records,
            repository=repository,
            publisher=publish,
            writer=writer,
            redis=pipelined,
            limits=limits,
            retry=Retry(),
            mcp=McpServers(Guard(allowed=settings.fetch_networks)),
            quarantine=quarantine,
        )
        supervisor.runner = Runner(equipment, supervisor.note_run)
        tasks = (
            asyncio.create_task(supervisor.keep_leases(), name="leases"),
            asyncio.create_task(writer.run(), name="streams"),
            asyncio.create_task(limits.run(), name="limits"),
            asyncio.create_task(breakers.run(), name="breakers"),
        )
        try:
            yield Assembled(worker, catalogue, pool, state, publish, broker, repository, supervisor, tasks)
            with contextlib.suppress(CacheUnavailable):  # PostgreSQL has, or will have, the same events
                await writer.flush()
        finally:
            await stop(*tasks)


@asynccontextmanager
async def _providers(settings: WorkerSettings) -> AsyncIterator[dict[str, Provider]]:
    timeout = httpx2.Timeout(settings.first_token_timeout, connect=5.0)
    connections = settings.slots + 8
    providers: dict[str, Provider] = {"scripted": Scripted()}
    if settings.anthropic is not None:
        access = settings.anthropic
        providers["messages"] = AnthropicMessages(
            access.api_key.get_secret_value(), access.base_url, timeout, connections
        )
    if settings.openai is not None:
        shared = openai_client(
            settings.openai.api_key.get_secret_value(), settings.openai.base_url, timeout, connections
        )
        providers["chat"] = OpenAIChat(shared)
        providers["responses"] = OpenAIResponses(shared)
    try:
        deadlines = Deadlines(settings.first_token_timeout, settings.call_timeout)
        yield {api: Observed(Timed(provider, deadlines)) for api, provider in providers.items()}
    finally:
        for provider in providers.values():
            await provider.close()
