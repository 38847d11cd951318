"""The composition root: everything a gateway is made of, made once and put together here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from uuid import uuid4

from starlette.types import ASGIApp

from common import postgres, redis
from common.catalogue import load_catalogue
from common.health import Advisory, Check
from common.lifecycle import stop
from common.loop_lag import measuring_lag
from common.messaging.connection import Broker
from common.messaging.consumer import depth, hearing_control
from common.messaging.publisher import RabbitPublisher, publisher
from common.messaging.topology import GATEWAY
from common.pipelining import Pipelined
from gateway.admission import Admission
from gateway.app import application
from gateway.approval_records import Approvals
from gateway.approving import Approving
from gateway.background import Background
from gateway.batch_admission import BatchAdmission
from gateway.batch_publishing import BatchPublisher
from gateway.batch_records import Batches
from gateway.batch_streams import BatchStreams
from gateway.batch_submission import BatchSubmissions
from gateway.budget_records import Budgets
from gateway.cancellation_records import CancellationRecords
from gateway.cancelling import Cancellations
from gateway.cancelling_many import CancellationsOfMany
from gateway.conversation_records import Conversations
from gateway.database import Database
from gateway.doubt_records import Doubts
from gateway.hub import Hub
from gateway.identities import Identities
from gateway.invoice_records import Invoices
from gateway.lane_records import LaneRecords
from gateway.lanes import Lanes, watch_forever
from gateway.limits import Guard
from gateway.mcp_records import McpServers
from gateway.metrics import Metrics
from gateway.outstanding import Outstanding
from gateway.outstanding_records import OpenTasks
from gateway.pause_records import Pauses
from gateway.plan_records import Plans
from gateway.principals import Principals
from gateway.proof_records import SECONDS, Proofs
from gateway.records import Records
from gateway.routes import admin, approvals, cancels, conversations, pauses, streams, tasks, usage
from gateway.routes import batches as batches_routes
from gateway.routes.budgets import budgeting, budgets_of_tenants, burn_rates, time_zones
from gateway.routes.doubts import doubting
from gateway.routes.invoices import invoices_of_tenants, invoicing
from gateway.routes.lanes import showing_lanes
from gateway.routes.mcp_servers import mcp_of_tenants, reading_mcp, registering_mcp
from gateway.routes.plans import planning
from gateway.routes.proof import proving
from gateway.routes.schedules import (
    changing_schedules,
    listing_schedules,
    making_schedules,
    reading_schedules,
)
from gateway.routes.uploads import reading_uploads, uploading
from gateway.schedule_records import Schedules
from gateway.scheduling import Scheduling
from gateway.settings import Settings
from gateway.streams import Pace, Streams
from gateway.submission import Submissions
from gateway.tasks import Tasks
from gateway.tracing import Tracing
from gateway.upload_records import Uploads
from gateway.usage import UsageReport

# With the one that listens: as many connections to Redis as a gateway has, whatever it streams.
_REDIS_CONNECTIONS = 5


@dataclass
class Gateway:
    """A gateway that is ready to serve."""

    app: ASGIApp
    hub: Hub
    background: tuple[asyncio.Task[None], ...]
    draining: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def bootstrap(settings: Settings, pace: Pace | None = None) -> AsyncIterator[Gateway]:
    """Open every connection, make the application, close in reverse. Raises `Unavailable`, `ConfigurationError`."""
    catalogue = load_catalogue(settings.catalogue.dir)
    metrics, draining = Metrics(), asyncio.Event()
    state_url, seconds = settings.redis.state_url.get_secret_value(), settings.redis.timeout
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(postgres.pool(settings.postgres, GATEWAY, role="laneway_gateway"))
        state = await stack.enter_async_context(
            redis.client(state_url, timeout=seconds, connections=_REDIS_CONNECTIONS)
        )
        ears = await stack.enter_async_context(redis.client(state_url, timeout=seconds, connections=1))
        sender = await stack.enter_async_context(publisher(settings.rabbit, GATEWAY))
        broker = await stack.enter_async_context(Broker(settings.rabbit, f"{GATEWAY}/control"))
        background = await stack.enter_async_context(Background())

        database = Database(pool, settings.postgres.timeout)
        pipelined = Pipelined(state, seconds)
        identities, store, records = Identities(database), Tasks(database), Records(pipelined)
        principals, tracing = Principals(identities), Tracing(enabled=settings.telemetry.otlp_endpoint is not None)
        await stack.enter_async_context(hearing_control(broker, f"{GATEWAY}-{uuid4()}", principals.hear))

        hub = Hub(ears, metrics)
        listening = asyncio.create_task(hub.run(), name="hub")
        stack.push_async_callback(stop, listening)
        followed = Streams(state, hub, store, metrics, pace)
        cancellations = Cancellations(store, records, sender, pipelined)
        outstanding = Outstanding(OpenTasks(database), pipelined, background)
        admission = Admission(pipelined, outstanding, settings.http.replicas)
        submissions = Submissions(
            catalogue=catalogue,
            principals=principals,
            admission=admission,
            publisher=sender,
            tasks=store,
            background=background,
            metrics=metrics,
            tracing=tracing,
        )
        batches = Batches(database, pipelined)
        many = CancellationsOfMany(CancellationRecords(database), sender, pipelined)
        batch_submissions = BatchSubmissions(
            catalogue=catalogue,
            principals=principals,
            single=submissions,
            admission=BatchAdmission(pipelined, outstanding, admission),
            publisher=BatchPublisher(sender, tracing),
            batches=batches,
            tasks=store,
            background=background,
            metrics=metrics,
            tracing=tracing,
        )
        schedules, invoices, uploads = Schedules(database), Invoices(database), Uploads(database)
        mcp_servers = McpServers(database)
        reports, budgets = UsageReport(database), Budgets(database)
        scheduling = Scheduling(catalogue, submissions, schedules, store)
        approval_records = Approvals(database)
        deciding = Approving(approval_records, store, records)
        lane_records = LaneRecords(database)
        lanes = Lanes(lane_records, partial(depth, broker), catalogue.tier_names)
        watching = asyncio.create_task(watch_forever(lanes, lane_records, metrics), name="lanes")
        stack.push_async_callback(stop, watching)
        admin_key = settings.admin_key.get_secret_value() if settings.admin_key else None
        administration = admin.Administration(admin_key, principals, sender)
        app = application(
            [
                tasks.submitting(submissions),
                streams.chatting(submissions, followed, cancellations, background),
                tasks.listing(principals, store),
                tasks.reading(principals, store, records, lanes),
                cancels.cancelling_many(principals, many),
                tasks.cancelling(principals, cancellations),
                approvals.approving(principals, deciding),
                approvals.listing_approvals(principals, deciding, approval_records),
                streams.following(principals, store, records, followed),
                batches_routes.submitting_batches(batch_submissions),
                batches_routes.reading_batches(principals, batches),
                batches_routes.following_batches(principals, batches, BatchStreams(hub, batches, metrics)),
                batches_routes.cancelling_batches(principals, batches, many),
                making_schedules(principals, scheduling),
                changing_schedules(principals, scheduling, schedules),
                listing_schedules(principals, schedules),
                reading_schedules(principals, schedules),
                *conversations.conversations(principals, Conversations(database), many),
                uploading(principals, uploads),
                reading_uploads(principals, uploads),
                registering_mcp(principals, mcp_servers, catalogue, settings.mcp_networks),
                reading_mcp(principals, mcp_servers),
                usage.reporting(principals, reports),
                usage.usage_of_tenants(administration, reports),
                invoicing(principals, invoices),
                invoices_of_tenants(administration, invoices),
                budgeting(principals, budgets),
                budgets_of_tenants(administration, budgets),
                time_zones(administration, budgets),
                burn_rates(administration, budgets),
                mcp_of_tenants(administration, mcp_servers),
                doubting(administration, Doubts(database)),
                planning(administration, Plans(database)),
                admin.tenants_and_keys(administration, identities),
                pauses.pausing(administration, Pauses(database, sender), catalogue),
                cancels.cancelling_for_tenants(administration, identities, many),
                showing_lanes(administration, lanes),
                proving(administration, Proofs(Database(pool, SECONDS))),
                admin.limits(administration, identities),
                admin.users(administration, identities, catalogue.tier_names),
            ],
            _checks(draining, sender, database, state),
            await stack.enter_async_context(measuring_lag(metrics.registry)),
            metrics,
            simulated=settings.simulated,
        )
        guarded = Guard(app, metrics, simulated=settings.simulated)
        yield Gateway(guarded, hub, (listening, watching), draining)


def _checks(
    draining: asyncio.Event, sender: RabbitPublisher, database: Database, state: redis.Client
) -> dict[str, Check]:
    """What readiness needs. Redis is shown with it only: without it a gateway is slower, and serves."""

    async def open_for_more() -> bool:
        return not draining.is_set()

    async def broker_is_up() -> bool:
        return sender.ready

    async def redis_answers() -> bool:
        return bool(await state.ping())

    return {
        "open": open_for_more,
        "rabbitmq": broker_is_up,
        "postgresql": database.answers,
        "redis": Advisory(redis_answers),
    }
