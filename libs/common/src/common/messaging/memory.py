"""A broker in memory, for tests and for measuring everything but the network: the topology's own values, no server.

Routes by the bindings, orders by priority (0 to 31, strict) and age, gives back to the head, counts what is rejected
towards the delivery limit, and dead-letters. One behavioural suite runs on it and on RabbitMQ.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import re
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import aio_pika

from common.contracts import Contract, decode
from common.errors import LaneFull, Unroutable
from common.messaging.envelope import Sender, seal
from common.messaging.settlement import Disposition
from common.messaging.topology import CONTROL, Binding, Topology, control_queue

_SENDER = Sender("memory", "memory")


@dataclass(eq=False)
class MemoryDelivery:
    """See `settlement.Delivery`."""

    message: aio_pika.Message
    failures: int = 0
    redelivered: bool = False
    on_settled: Callable[[MemoryDelivery, Disposition], None] | None = None

    @property
    def headers(self) -> dict[str, object]:
        """The envelope's headers."""
        return dict(self.message.headers)

    def decode(self) -> Contract:
        """The contract inside. Raises `DecodeError`."""
        return decode(self.message.type, self.message.body)

    async def settle(self, disposition: Disposition) -> bool:
        """Settle it; False where it was settled before."""
        on_settled, self.on_settled = self.on_settled, None
        if on_settled is not None:
            on_settled(self, disposition)
        return on_settled is not None


@dataclass(eq=False)
class _Consumer:
    prefetch: int
    on_delivery: Callable[[MemoryDelivery], None]
    held: int = 0


@dataclass
class _Queue:
    policy: dict[str, Any]
    ready: list[tuple[int, int, MemoryDelivery]] = field(default_factory=list)
    returned: deque[MemoryDelivery] = field(default_factory=deque)  # before all that is ready, whatever its priority
    consumers: deque[_Consumer] = field(default_factory=deque)


class MemoryBroker:
    """A virtual host, and its own `Publisher`. Belongs to one event loop."""

    ready = True

    def __init__(self, plan: Topology) -> None:
        self._bindings = list(plan.bindings)
        self._ages = itertools.count()
        self._queues = {queue.name: _Queue(_policy(plan, queue.name)) for queue in plan.queues}

    async def publish(
        self, exchange: str, routing_key: str, contract: Contract, *, subject: UUID, stable_id: str, priority: int = 0
    ) -> None:
        """See `Publisher.publish`."""
        message = seal(contract, subject=subject, stable_id=stable_id, priority=priority, sender=_SENDER)
        taken = [self._put(queue, message) for queue in self._routed(exchange, routing_key)]
        if not taken:
            raise Unroutable(f"no queue takes {exchange}/{routing_key}")
        if not all(taken):  # as on RabbitMQ, the others have it
            raise LaneFull(f"{exchange}/{routing_key} is full")

    @asynccontextmanager
    async def consuming(
        self, queue: str, *, prefetch: int, on_delivery: Callable[[MemoryDelivery], None]
    ) -> AsyncIterator[None]:
        """Consume a queue while the context lasts; what is held then stays to be settled."""
        consumer = _Consumer(prefetch, on_delivery)
        self._queues[queue].consumers.append(consumer)
        self._dispatch(queue)
        try:
            yield
        finally:
            self._queues[queue].consumers.remove(consumer)

    @asynccontextmanager
    async def hearing_control(self, process: str, on_contract: Callable[[Contract], None]) -> AsyncIterator[None]:
        """Hear `control` while the context lasts."""
        binding = Binding(CONTROL, control_queue(process), "#")
        self._bindings.append(binding)
        self._queues[binding.queue] = _Queue({})
        async with self.consuming(binding.queue, prefetch=10**9, on_delivery=lambda d: on_contract(d.decode())):
            yield
        self._bindings.remove(binding)

    def _routed(self, exchange: str, key: str) -> list[str]:
        return list({b.queue: None for b in self._bindings if b.source == exchange and _matches(b.routing_key, key)})

    def _put(self, name: str, message: aio_pika.Message) -> bool:
        queue = self._queues[name]
        if len(queue.ready) + len(queue.returned) >= queue.policy.get("max-length", float("inf")):
            return False
        heapq.heappush(queue.ready, (-(message.priority or 0), next(self._ages), MemoryDelivery(message)))
        self._dispatch(name)
        return True

    def _return(self, name: str, delivery: MemoryDelivery, failures: int) -> None:
        self._queues[name].returned.append(MemoryDelivery(delivery.message, failures, redelivered=True))
        self._dispatch(name)

    def _dispatch(self, name: str) -> None:
        queue = self._queues[name]
        for _ in range(len(queue.consumers)):
            consumer = queue.consumers[0]
            queue.consumers.rotate(-1)
            while (queue.returned or queue.ready) and consumer.held < consumer.prefetch:
                delivery = queue.returned.popleft() if queue.returned else heapq.heappop(queue.ready)[2]
                delivery.on_settled = lambda d, how, c=consumer: self._settled(name, c, d, how)
                consumer.held += 1
                asyncio.get_running_loop().call_soon(consumer.on_delivery, delivery)

    def _settled(self, name: str, consumer: _Consumer, delivery: MemoryDelivery, how: Disposition) -> None:
        policy, failures = self._queues[name].policy, delivery.failures + 1
        consumer.held -= 1
        if how is Disposition.RETURN:
            self._return(name, delivery, delivery.failures)
        elif how is Disposition.RETRY and not 0 <= policy.get("delivery-limit", -1) < failures:
            delay = min(policy.get("delayed-retry-max", 0), policy.get("delayed-retry-min", 0) * failures) / 1000
            asyncio.get_running_loop().call_later(delay, self._return, name, delivery, failures)
        elif how is not Disposition.DONE and "dead-letter-exchange" in policy:
            for queue in self._routed(policy["dead-letter-exchange"], policy["dead-letter-routing-key"]):
                self._put(queue, delivery.message)
        self._dispatch(name)


def _policy(plan: Topology, queue: str) -> dict[str, Any]:
    return next((dict(policy.definition) for policy in plan.policies if re.match(policy.pattern, queue)), {})


def _matches(pattern: str, key: str) -> bool:
    """Whether a topic binding takes a routing key: `*` is one word, `#` any number of them."""
    special = {"#": r"(\.[^.]*)*", "*": r"\.[^.]*"}
    words = "".join(special.get(word) or re.escape(f".{word}") for word in pattern.split("."))
    return bool(re.fullmatch(words, f".{key}"))
