"""The composition root: everything a worker is made of, put together in the order in which it is taken down again."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial

import httpx2
import structlog

from agent_worker.dispatcher import Dispatcher
from agent_worker.guarantees import served_tiers
from agent_worker.lanes import Slots
from agent_worker.limiter.provider_limits import ProviderLimits
from agent_worker.metrics import GUARANTEED_SLOTS, SLOTS
from agent_worker.pauses import Gate, PauseKeeper
from agent_worker.price_records import check_prices
from agent_worker.providers.anthropic import AnthropicMessages
from agent_worker.providers.base import Provider
from agent_worker.providers.openai import client as openai_client
from agent_worker.providers.openai_chat import OpenAIChat
from agent_worker.providers.openai_responses import OpenAIResponses
from agent_worker.providers.rotation import KeyKeeper, Rotating
from agent_worker.providers.scripted import Scripted
from agent_worker.report_records import WorkerReports
from agent_worker.reporting import report_forever, retire
from agent_worker.repository import RunRepository
from agent_worker.resilience.breakers import Breakers
from agent_worker.resilience.deadlines import Deadlines, Timed
from agent_worker.resilience.retry import Retry
from agent_worker.response_cache import Responses
from agent_worker.retiring import Term, retire_in_time
from agent_worker.runner import Equipment, Runner
from agent_worker.settings import WorkerSettings, read_keys, worker_name
from agent_worker.staffing import Staffing
from agent_worker.stream_writer import StreamWriter
from agent_worker.supervisor import Supervisor
from agent_worker.telemetry import Observed
from agent_worker.tool_records import ToolRecords
from agent_worker.tools.builtin import toolboxes
from agent_worker.tools.offered import offered
from common import postgres, redis
from common.catalogue import load_catalogue
from common.contracts import Contract
from common.errors import CacheUnavailable
from common.health import Advisory, Check, serving_health
from common.lifecycle import stop, until_stopped
from common.messaging.connection import Broker
from common.messaging.consumer import Consumption, consuming, hearing_control
from common.messaging.flex import FlexLane
from common.messaging.publisher import publisher
from common.messaging.topology import AGENT_WORKER, lane
from common.pipelining import Pipelined

_log = structlog.get_logger(__name__)
_REDIS_CONNECTIONS = 4


async def serve(settings: WorkerSettings, stopping: asyncio.Event) -> None:
    """Run a worker until it is asked to stop, then drain it."""
    if settings.simulated:
        _log.warning("providers.simulated", meaning="every answer of this worker is simulated: no model is called")
    async with AsyncExitStack() as stack:
        catalogue = load_catalogue(settings.catalogue.dir)
        slots = Slots(settings.slots, served_tiers(settings.lanes, catalogue.tiers))
        pool = await stack.enter_async_context(postgres.pool(settings.postgres, AGENT_WORKER, role="laneway_worker"))
        await check_prices(pool, settings.postgres.timeout, catalogue)
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
        providers, keys = await stack.enter_async_context(_providers(settings))
        staffing = Staffing(catalogue, providers, breakers)
        staffing.report_unreachable()
        equipment = Equipment(
            settings=settings,
            worker=worker_name(),
            staffing=staffing,
            toolboxes=boxes,
            tool_records=tool_records,
            repository=repository,
            publisher=publish,
            writer=writer,
            redis=pipelined,
            limits=limits,
            retry=Retry(),
            responses=await stack.enter_async_context(_responses(settings)),
        )
        supervisor.runner = Runner(equipment, supervisor.note_run)

        async def broker_ready() -> bool:
            return broker.ready and publish.ready and not stopping.is_set()

        async def redis_answers() -> bool:
            return bool(await state.ping())

        checks: dict[str, Check] = {
            "rabbitmq": broker_ready,
            "postgresql": repository.answers,
            "redis": Advisory(redis_answers),
        }
        await stack.enter_async_context(serving_health(settings.health, checks))
        tasks = [
            asyncio.create_task(supervisor.keep_leases(), name="leases"),
            asyncio.create_task(writer.run(), name="streams"),
            asyncio.create_task(limits.run(), name="limits"),
            asyncio.create_task(breakers.run(), name="breakers"),
            asyncio.create_task(keys.run(), name="keys"),
        ]
        flex = {tier: FlexLane(broker, lane(tier)) for tier in slots.guaranteed}
        dispatcher = Dispatcher(slots, flex, supervisor.start)
        consumers: list[Consumption] = []
        gates: dict[str, Gate] = {}
        keeper = PauseKeeper(repository, gates, dispatcher.pause, supervisor.park)

        def hear(contract: Contract) -> None:
            supervisor.hear(contract)
            keeper.hear(contract)

        await stack.enter_async_context(hearing_control(broker, f"worker-{os.urandom(6).hex()}", hear))
        SLOTS.set(slots.total)
        try:
            async with AsyncExitStack() as lanes:
                for tier, guaranteed in slots.guaranteed.items():
                    GUARANTEED_SLOTS.labels(tier=tier).set(guaranteed)
                    taking = partial(dispatcher.take, tier)
                    consumer = await lanes.enter_async_context(
                        consuming(broker, lane(tier), prefetch=guaranteed, on_delivery=taking)
                    )
                    consumers.append(consumer)
                    gates[tier] = Gate(consumer)
                reports = WorkerReports(pool, settings.postgres.timeout)
                keeping = [
                    asyncio.create_task(keeper.run(), name="pauses"),
                    *(asyncio.create_task(gate.run(), name=f"gate:{tier}") for tier, gate in gates.items()),
                ]
                term = Term(settings.retire_after_runs, settings.retire_above_mb)
                filling = [
                    asyncio.create_task(retire_in_time(term, lambda: supervisor.served, stopping), name="retiring"),
                    asyncio.create_task(dispatcher.run(), name="lending"),
                    asyncio.create_task(report_forever(reports, equipment.worker, slots), name="reporting"),
                ]
                lanes.push_async_callback(stop, *keeping, *filling)
                await until_stopped(stopping, *keeping, *filling, *tasks)
                await stop(*filling)
                await retire(reports, equipment.worker)
                # Side by side: while the broker is away each consumer takes seconds to be given up. A kill is heard to
                # the last; what is resumed opens nothing that is closed.
                closing = [consumer.close() for consumer in consumers]
                await asyncio.gather(supervisor.drain(settings.grace_seconds), dispatcher.close(), *closing)
            with contextlib.suppress(CacheUnavailable):  # PostgreSQL has, or will have, the same events
                await writer.flush()
        finally:
            await stop(*tasks)


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
async def _providers(settings: WorkerSettings) -> AsyncIterator[tuple[dict[str, Provider], KeyKeeper]]:
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
        keeper = KeyKeeper(read_keys, {name: tuple(clients.values()) for name, clients in rotating.items()})
        yield {api: Observed(Timed(provider, deadlines)) for api, provider in providers.items()}, keeper
    finally:
        for provider in providers.values():
            await provider.close()
