"""Workers on real servers, the queues that hear them, and the tasks they are given."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import ip_network
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import aio_pika
import httpx2
from pydantic import SecretStr

from agent_worker.limiter.provider_limits import ProviderLimits
from agent_worker.limiter.script import key_of
from agent_worker.mcp.servers import McpServers, Tenants
from agent_worker.mcp_records import McpRecords
from agent_worker.providers.base import CallMeter, ModelRequest, Piece, Provider, ProviderError, TextDelta, ToolCall
from agent_worker.providers.scripted import Scripted
from agent_worker.repository import RunRepository
from agent_worker.resilience import advice
from agent_worker.resilience.breakers import Breakers
from agent_worker.resilience.circuit import Rules
from agent_worker.resilience.retry import Retry
from agent_worker.response_cache import Responses
from agent_worker.runner import Equipment, Runner
from agent_worker.settings import ProviderAccess, WorkerSettings
from agent_worker.staffing import Staffing
from agent_worker.stream_writer import StreamWriter
from agent_worker.supervisor import Supervisor
from agent_worker.telemetry import Observed
from agent_worker.tool_records import ToolRecords
from agent_worker.tools.base import Toolbox
from agent_worker.tools.builtin import toolboxes
from agent_worker.tools.guard import Guard
from agent_worker.tools.offered import offered
from common import postgres, redis, streams
from common.catalogue import Agent, AutoRule, Catalogue, Model, Price, Tier
from common.contracts import CancelRequested, Contract, RunFinished, RunProgressed, TaskSubmitted, UsageRecorded
from common.contracts.base import now
from common.contracts.events import BEGINNING, StreamEvent
from common.contracts.tasks import InputMessage
from common.lifecycle import stop
from common.messaging.connection import Broker
from common.messaging.consumer import consuming, depth, hearing_control
from common.messaging.publisher import Publisher, publisher
from common.messaging.settlement import Disposition, RabbitDelivery
from common.messaging.topology import BILLING_QUEUE, CONTROL, DEAD_TASKS_QUEUE, PERSISTER_QUEUE, TASKS, lane
from common.pipelining import Pipelined
from common.postgres import Pool
from common.redis import Client
from common.settings import Postgres, Rabbit
from tests.servers import Servers
from tests.stage import CATALOGUE, Stage, eventually

LANE = lane("free")
Said = Sequence[TextDelta | ToolCall | ProviderError]
PRICED = Price(provider="anthropic", model="claude-haiku-4-5")

# Of this process alone: what is learned of a model is shared by all that use one Redis.
FIRST, SECOND, THIRD = (f"{name}-{uuid4().hex[:8]}" for name in ("first", "second", "third"))


def model(name: str, api: Any, provider: Any = "anthropic", class_: str = "simple", *fallbacks: str) -> Model:
    """A model that one of the tests' providers serves; the books only look at its name and its provider's."""
    given = {"provider": provider, "api": api, "window": 200_000, "max_output": 64_000, "class": class_}
    return Model(name=name, price=PRICED, fallbacks=fallbacks, **given)


MODELS = (
    model("claude-haiku-4-5", "scripted"),
    model("gpt-5.4-mini", "messages", "openai"),
    model("no-price", "scripted"),
    model(FIRST, "messages", "anthropic", "standard", SECOND),
    model(SECOND, "chat", "openai", "strong"),
    model(THIRD, "responses", "openai", "strong", FIRST),
    model("claude-sonnet-5-5", "scripted").model_copy(update={"window": 8_000, "max_output": 1_000}),
)
AUTO = (
    AutoRule(**{"class": "strong", "keywords": ("prove",)}),
    AutoRule(**{"class": "standard", "longer_than": 1000}),
    AutoRule(**{"class": "simple"}),
)
AGENTS = (
    Agent(name="default", version=1, system="Be brief.", model="claude-haiku-4-5", tools=("calculator",)),
    Agent(name="live", version=1, system="Be brief.", model="gpt-5.4-mini", tools=("calculator",)),
    Agent(
        name="clerk",
        version=1,
        system="",
        model="gpt-5.4-mini",
        tools=("calculator", "fetch_url", "search_documents", "report_progress"),
        max_steps=4,
    ),
    Agent(name="supervised", version=1, system="Be brief.", model="claude-haiku-4-5", tools=("calculator",)),
    Agent(name="terse", version=1, system="", model="claude-haiku-4-5", max_output_bytes=300),
    Agent(name="hurried", version=1, system="", model="claude-haiku-4-5", timeout_seconds=0.3),
)
MINUTED = Agent(
    name="minuted",
    version=1,
    system="Be brief.",
    model="claude-sonnet-5-5",
    tools=("calculator",),
    max_output_tokens=300,
    history_summary_tokens=200,
)
TIERS = (Tier(name="enterprise", weight=6), Tier(name="pro", weight=3), Tier(name="free", weight=1))
TEST_CATALOGUE = Catalogue(tiers=TIERS, models=MODELS, agents=(*AGENTS, MINUTED), auto=AUTO)


class Played:
    """A scripted provider that counts its calls, and holds each back until it is let go."""

    name = "anthropic"

    def __init__(self, *answers: Said, hold: bool = False) -> None:
        self.answers = answers
        self.requests: list[ModelRequest] = []
        self.go = asyncio.Event()
        if not hold:
            self.go.set()

    def script(self, request: ModelRequest) -> Said:
        """The answer to the step that the request is in."""
        rounds = sum(turn.role == "assistant" for turn in request.turns)
        return self.answers[min(rounds, len(self.answers) - 1)]

    async def stream(self, request: ModelRequest, meter: CallMeter) -> AsyncGenerator[Piece, None]:
        """See `Provider.stream`."""
        self.requests.append(request)
        meter.accepted = True
        await self.go.wait()
        async for piece in Scripted(self.script).stream(request, meter):
            yield piece

    async def close(self) -> None:
        """See `Provider.close`."""

    async def called(self, times: int = 1) -> None:
        """Wait for so many calls."""

        async def enough() -> bool:
            return len(self.requests) >= times

        await eventually(enough)


@dataclass
class Heard:
    """What the workers published, by task; and what died."""

    bodies: dict[UUID, list[tuple[Contract, bytes]]] = field(default_factory=lambda: defaultdict(list))
    dead: list[RabbitDelivery] = field(default_factory=list)

    def take(self, delivery: RabbitDelivery) -> None:
        """A message of the persister's or billing's queue."""
        contract = delivery.decode()
        task_id: UUID = contract.task_id  # type: ignore[attr-defined]
        self.bodies[task_id].append((contract, delivery.message.body))
        asyncio.ensure_future(delivery.settle(Disposition.DONE))  # noqa: RUF006 - the broker keeps it otherwise

    def bury(self, delivery: RabbitDelivery) -> None:
        """A dead letter."""
        self.dead.append(delivery)
        asyncio.ensure_future(delivery.settle(Disposition.DONE))  # noqa: RUF006 - as above

    def ends(self, task_id: UUID) -> list[tuple[RunFinished, bytes]]:
        """How often, and how, a task ended."""
        return [(c, body) for c, body in self.bodies[task_id] if isinstance(c, RunFinished)]

    def usage(self, task_id: UUID) -> list[UsageRecorded]:
        """Its calls."""
        return [c for c, _ in self.bodies[task_id] if isinstance(c, UsageRecorded)]

    def progress(self, task_id: UUID) -> list[RunProgressed]:
        """Its steps' events."""
        return [c for c, _ in self.bodies[task_id] if isinstance(c, RunProgressed)]

    async def end(self, task_id: UUID, deadline: float = 30.0) -> RunFinished:
        """The first end of the task."""

        async def ended() -> list[tuple[RunFinished, bytes]]:
            return self.ends(task_id)

        return (await eventually(ended, deadline))[0][0]


@dataclass
class Worker:
    """One worker process's insides."""

    supervisor: Supervisor
    repository: RunRepository
    runner: Runner
    publisher: Publisher
    leases: asyncio.Task[None]
    breakers: Breakers
    acquisitions: list[UUID] = field(default_factory=list)

    async def idle(self) -> None:
        """Wait until it holds nothing."""

        async def nothing() -> bool:
            return self.supervisor.held == 0

        await eventually(nothing)


@dataclass
class World:
    """The servers of one test."""

    stage: Stage
    simulator: str
    owner: Pool
    state: Client
    gateway: Publisher
    heard: Heard
    stack: AsyncExitStack

    async def worker(
        self,
        provider: Provider | None = None,
        *,
        lease: float = 1.0,
        slots: int = 4,
        postgres_port: int | None = None,
        rabbit_port: int | None = None,
        live: Mapping[str, Provider] | None = None,
        max_attempts: int = 5,
        heartbeat: int = 15,
        rules: Rules | None = None,
        redis_port: int | None = None,
        responses: Responses | None = None,
        boxes: Mapping[str, Toolbox] | None = None,
        provider_retries: int = 0,
    ) -> Worker:
        """A worker that serves the free lane until the test ends."""
        state = self.state
        if redis_port is not None:
            state = await self.stack.enter_async_context(
                redis.client(redis_through(self.stage.servers, redis_port), timeout=0.2, connections=2)
            )
        settings = WorkerSettings(
            rabbit=_rabbit(self.stage, rabbit_port),
            postgres=_postgres(self.stage, postgres_port),
            redis=self.stage.redis,
            catalogue={"dir": CATALOGUE},
            anthropic=ProviderAccess(api_key=SecretStr("any"), base_url=self.simulator),
            slots=slots,
            lease_seconds=lease,
            tool_processes=1,
            fetch_networks=(ip_network("127.0.0.1/32"),),
            max_attempts=max_attempts,
            provider_retries=provider_retries,
        )
        enter = self.stack.enter_async_context
        pool = await enter(postgres.pool(settings.postgres, "test-worker"))
        publish = await enter(publisher(settings.rabbit, "agent-worker"))
        broker = await enter(Broker(settings.rabbit, "agent-worker/consume"))
        repository = RunRepository(pool, settings.postgres.timeout, timedelta(seconds=lease))
        supervisor = Supervisor(repository, lease)
        writer = StreamWriter(Pipelined(self.state, 10.0), supervisor.fenced_off)
        providers: dict[str, Provider] = {"scripted": provider or Scripted(), **(live or {})}
        limits = ProviderLimits(Pipelined(self.state, 10.0), TEST_CATALOGUE, 1)
        breakers = Breakers(Pipelined(state, 0.2 if redis_port is not None else 10.0), TEST_CATALOGUE, rules)
        registered = McpRecords(pool, settings.postgres.timeout).of
        equipment = Equipment(
            settings=settings,
            worker=f"w-{uuid4().hex[:6]}",
            staffing=Staffing(TEST_CATALOGUE, {api: Observed(p) for api, p in providers.items()}, breakers),
            toolboxes={**toolboxes(TEST_CATALOGUE, await enter(offered(settings))), **(boxes or {})},
            tool_records=ToolRecords(pool, settings.postgres.timeout),
            repository=repository,
            publisher=publish,
            writer=writer,
            redis=Pipelined(self.state, 10.0),
            limits=limits,
            retry=Retry(base=0.01),
            mcp=McpServers(Guard(), tenants=Tenants(registered, Guard(allowed=settings.fetch_networks))),
            responses=responses or Responses(),
        )
        supervisor.runner = Runner(equipment, supervisor.note_run)
        running = (supervisor.keep_leases(), writer.run(), limits.run(), breakers.run())
        tasks = [asyncio.create_task(owned) for owned in running]
        made = Worker(supervisor, repository, supervisor.runner, publish, tasks[0], breakers)
        _count(repository, made.acquisitions)
        self.stack.push_async_callback(stop, *tasks)
        self.stack.push_async_callback(supervisor.drain, 0)
        await enter(hearing_control(broker, f"worker-{uuid4().hex[:12]}", supervisor.hear))
        await enter(consuming(broker, LANE, prefetch=slots, on_delivery=supervisor.start))
        return made

    async def submit(self, task: TaskSubmitted) -> None:
        """As the gateway does."""
        await self.gateway.publish(TASKS, task.tier, task, subject=task.task_id, stable_id=str(task.task_id))

    async def cancel(self, task: TaskSubmitted, *, bell: bool = True) -> str:
        """As the gateway does; without the bell only the lease's renewal tells."""
        row = await self.owner.fetchrow(
            "SELECT * FROM runtime.cancel($1, $2, $3)", task.task_id, task.tenant_id, "free"
        )
        if bell:
            contract = CancelRequested(task_id=task.task_id, tenant_id=task.tenant_id)
            await self.gateway.publish(CONTROL, "", contract, subject=task.task_id, stable_id=str(task.task_id))
        assert row is not None
        return str(row["status"])

    def task(self, text: str = "hello", **changes: Any) -> TaskSubmitted:
        """A task of a new tenant in the free lane."""
        caps = changes.pop("caps", {})
        values: dict[str, Any] = {
            "task_id": uuid4(),
            "tenant_id": self.stage.new_tenant(**caps),
            "tier": "free",
            "level": 30,
            "priority": 5,
            "agent": "default",
            "input": (InputMessage(role="user", content=text),),
            "request_hash": "",
            "submitted_at": now(),
        }
        return TaskSubmitted(**{**values, **changes})

    async def consumers(self, tier: str) -> int:
        """How many consumers the tier's lane has."""
        async with Broker(self.stage.rabbit("agent-worker"), "test/depth") as broker:
            return (await depth(broker, lane(tier))).consumers

    async def run_row(self, task: TaskSubmitted) -> dict[str, Any]:
        """The run as PostgreSQL has it."""
        row = await self.owner.fetchrow("SELECT * FROM runtime.runs WHERE task_id = $1", task.task_id)
        return dict(row) if row is not None else {}

    async def steps(self, task: TaskSubmitted) -> list[int]:
        """The steps that are saved."""
        rows = await self.owner.fetch("SELECT step FROM runtime.steps WHERE task_id = $1 ORDER BY 1", task.task_id)
        return [row["step"] for row in rows]

    async def holds(self, task: TaskSubmitted) -> set[UUID]:
        """The attempts for which money was held."""
        rows = await self.owner.fetch("SELECT attempt_id FROM billing.holds WHERE task_id = $1", task.task_id)
        return {row["attempt_id"] for row in rows}

    async def stream(self, task: TaskSubmitted) -> list[StreamEvent]:
        """The log in Redis."""
        return await streams.read(self.state, streams.key(task.tenant_id, task.task_id), BEGINNING, 100_000)

    async def until(self, condition: Callable[[], Awaitable[object]], deadline: float = 30.0) -> None:
        """Wait for it."""
        await eventually(condition, deadline)


def _count(repository: RunRepository, acquisitions: list[UUID]) -> None:
    acquire = repository.acquire

    async def counted(task: TaskSubmitted, *rest: Any) -> Any:
        acquisitions.append(task.task_id)
        return await acquire(task, *rest)

    repository.acquire = counted  # type: ignore[assignment,method-assign]


def _rabbit(stage: Stage, port: int | None) -> Rabbit:
    """Only what is reached through a relay may be slow: other tests are not about how busy the machine is."""
    rabbit = stage.rabbit("agent-worker")
    return (
        rabbit
        if port is None
        else rabbit.model_copy(update={"url": _through(rabbit.url, port), "publish_timeout": 1.0})
    )


def _postgres(stage: Stage, port: int | None) -> Postgres:
    database = stage.postgres("laneway_worker")
    return (
        database if port is None else database.model_copy(update={"dsn": _through(database.dsn, port), "timeout": 1.0})
    )


def redis_through(servers: Servers, port: int) -> str:
    """The address of Redis by way of a proxy."""
    return _through(SecretStr(servers.redis_state_url), port).get_secret_value()


def _through(address: SecretStr, port: int) -> SecretStr:
    parts = urlsplit(address.get_secret_value())
    user = parts.netloc.rpartition("@")[0]
    return SecretStr(parts._replace(netloc=f"{user}@127.0.0.1:{port}").geturl())


@asynccontextmanager
async def world_of(stage: Stage, simulator: str) -> AsyncIterator[World]:
    """A world with empty queues; its workers are drained when it ends."""
    _purge(stage)
    async with AsyncExitStack() as base, AsyncExitStack() as stack:
        enter = base.enter_async_context
        heard = Heard()
        state = await enter(redis.client(stage.servers.redis_state_url, timeout=10.0, connections=8))
        await state.delete(  # what earlier tests were refused
            *(name(model.provider, model.name) for model in MODELS for name in (key_of, advice.key_of))
        )
        for service, queues in (("persister", (PERSISTER_QUEUE, DEAD_TASKS_QUEUE)), ("billing", (BILLING_QUEUE,))):
            broker = await enter(Broker(stage.rabbit(service), f"test/{service}"))
            for queue in queues:
                take = heard.bury if queue == DEAD_TASKS_QUEUE else heard.take
                await enter(consuming(broker, queue, prefetch=1000, on_delivery=take))
        yield World(
            stage,
            simulator,
            await enter(postgres.pool(stage.postgres("laneway_owner"), "test-owner")),
            state,
            await enter(publisher(stage.rabbit("gateway"), "gateway")),
            heard,
            stack,
        )


def _purge(stage: Stage) -> None:
    with stage.management() as client:
        for queue in (LANE, PERSISTER_QUEUE, BILLING_QUEUE, DEAD_TASKS_QUEUE):
            response: httpx2.Response = client.delete(f"/api/queues/{stage.name}/{queue}/contents")
            response.raise_for_status()


async def publish_raw(stage: Stage, body: bytes, kind: str) -> None:
    """A message of no service of ours, in the free lane."""
    rabbit = stage.rabbit("gateway")
    connection = await aio_pika.connect(rabbit.url.get_secret_value())
    async with connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(TASKS, ensure=False)
        await exchange.publish(aio_pika.Message(body, type=kind, delivery_mode=2), "free")
