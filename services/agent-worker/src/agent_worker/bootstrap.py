"""The composition root: everything a worker is made of, put together in the order in which it is taken down again."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from functools import partial

import structlog

from agent_worker.assembly import Assembled, assembled
from agent_worker.dispatcher import Dispatcher
from agent_worker.guarantees import served_tiers
from agent_worker.lanes import Slots
from agent_worker.metrics import GUARANTEED_SLOTS, SLOTS
from agent_worker.pauses import Gate, PauseKeeper
from agent_worker.providers.warming import warm_up
from agent_worker.quarantine import Quarantine
from agent_worker.report_records import WorkerReports
from agent_worker.reporting import report_forever, retire
from agent_worker.retiring import Term, retire_in_time
from agent_worker.settings import WorkerSettings, worker_name
from common.catalogue import load_catalogue
from common.contracts import Contract
from common.health import Advisory, Check, serving_health
from common.lifecycle import stop, until_stopped
from common.messaging.consumer import Consumption, consuming, hearing_control
from common.messaging.flex import FlexLane
from common.messaging.topology import lane

_log = structlog.get_logger(__name__)


async def serve(settings: WorkerSettings, stopping: asyncio.Event) -> None:
    """Run a worker until it is asked to stop, then drain it."""
    if settings.simulated:
        _log.warning("providers.simulated", meaning="every answer of this worker is simulated: no model is called")
    async with AsyncExitStack() as stack:
        catalogue = load_catalogue(settings.catalogue.dir)
        slots = Slots(settings.slots, served_tiers(settings.lanes, catalogue.tiers))
        quarantine = Quarantine(settings.grace_seconds)
        made = await stack.enter_async_context(assembled(settings, catalogue, worker_name(), quarantine))
        await stack.enter_async_context(serving_health(settings.health, _checks(made, stopping)))
        flex = {tier: FlexLane(made.broker, lane(tier)) for tier in slots.guaranteed}
        dispatcher = Dispatcher(slots, flex, made.supervisor.start)
        consumers: list[Consumption] = []
        gates: dict[str, Gate] = {}
        keeper = PauseKeeper(made.repository, gates, dispatcher.pause, made.supervisor.park)

        def hear(contract: Contract) -> None:
            made.supervisor.hear(contract)
            keeper.hear(contract)

        # Before anything is taken: the first runs are not to wait for it, nor other runs beside them.
        await warm_up(made.providers)
        await stack.enter_async_context(hearing_control(made.broker, f"worker-{os.urandom(6).hex()}", hear))
        SLOTS.set(slots.total)
        async with AsyncExitStack() as lanes:
            for tier, guaranteed in slots.guaranteed.items():
                GUARANTEED_SLOTS.labels(tier=tier).set(guaranteed)
                taking = partial(dispatcher.take, tier)
                consumer = await lanes.enter_async_context(
                    consuming(made.broker, lane(tier), prefetch=guaranteed, on_delivery=taking)
                )
                consumers.append(consumer)
                gates[tier] = Gate(consumer)
            reports = WorkerReports(made.pool, settings.postgres.timeout)
            keeping = [
                asyncio.create_task(keeper.run(), name="pauses"),
                *(asyncio.create_task(gate.run(), name=f"gate:{tier}") for tier, gate in gates.items()),
            ]
            term = Term(settings.retire_after_runs, settings.retire_above_mb)
            filling = [
                asyncio.create_task(retire_in_time(term, lambda: made.supervisor.served, stopping), name="retiring"),
                asyncio.create_task(dispatcher.run(), name="lending"),
                asyncio.create_task(report_forever(reports, made.worker, slots), name="reporting"),
            ]
            lanes.push_async_callback(stop, *keeping, *filling)
            await until_stopped(stopping, *keeping, *filling, *made.tasks)
            await stop(*filling)
            await retire(reports, made.worker)
            # Side by side: while the broker is away each consumer takes seconds to be given up. A kill is heard to
            # the last; what is resumed opens nothing that is closed.
            closing = [consumer.close() for consumer in consumers]
            await asyncio.gather(made.supervisor.drain(settings.grace_seconds), dispatcher.close(), *closing)


def _checks(made: Assembled, stopping: asyncio.Event) -> dict[str, Check]:
    """What readiness needs."""

    async def broker_ready() -> bool:
        return made.broker.ready and made.publisher.ready and not stopping.is_set()

    async def redis_answers() -> bool:
        return bool(await made.state.ping())

    return {
        "rabbitmq": broker_ready,
        "postgresql": made.repository.answers,
        "redis": Advisory(redis_answers),
    }
