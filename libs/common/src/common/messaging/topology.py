"""Every exchange, queue, binding, policy and permission, as values. No other module names one.

`definitions` renders them in the broker's own format, which `python -m common.messaging.apply` imports and
`deploy/rabbitmq/definitions.json` shows. Queue arguments hold only what can never change; the rest is policy, so
that an operator can change it live in the management UI.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

TASKS = "tasks"
EVENTS = "events"
DEAD = "dead"
CONTROL = "control"

PERSISTER_QUEUE = "events.persister"
BILLING_QUEUE = "events.billing"
DEAD_TASKS_QUEUE = "dead.tasks"
DEAD_EVENTS_QUEUE = "dead.events"

GATEWAY = "gateway"
AGENT_WORKER = "agent-worker"
PERSISTER = "persister"
BILLING = "billing"
SERVICES = (GATEWAY, AGENT_WORKER, PERSISTER, BILLING)

# Priorities of messages within a lane; the broker has 0 to 31. Work that resumes goes before all that is new.
RESUME_LEVEL = 31
HIGHEST_LEVEL = 30

# A crash counts against every message its connection held: generous, since the run's own attempts are to decide.
DELIVERY_LIMIT = 20

_MINUTE_MS = 60_000
# What failed, or was held by a process that died, comes again later, and the later the more often that has happened.
LONGEST_RETRY_SECONDS = 60
_DELAYED_RETRY = {
    "delayed-retry-type": "failed",
    "delayed-retry-min": 1_000,
    "delayed-retry-max": LONGEST_RETRY_SECONDS * 1_000,
}


def lane(tier: str) -> str:
    """The queue of a tier's tasks."""
    return f"{TASKS}.{tier}"


def control_queue(process: str) -> str:
    """The exclusive queue in which one process hears `control`."""
    return f"{CONTROL}.{process}"


@dataclass(frozen=True)
class Exchange:
    """A durable exchange."""

    name: str
    type: Literal["topic", "fanout"] = "topic"


@dataclass(frozen=True)
class Queue:
    """A durable quorum queue."""

    name: str


@dataclass(frozen=True)
class Binding:
    """What of an exchange a queue receives."""

    source: str
    queue: str
    routing_key: str


@dataclass(frozen=True)
class Policy:
    """A complete policy for one family of queues: at most one policy matches a queue."""

    name: str
    pattern: str
    definition: Mapping[str, Any]


@dataclass(frozen=True)
class Permission:
    """What a service's user may do, as regular expressions over names."""

    user: str
    configure: str
    write: str
    read: str


@dataclass(frozen=True)
class Topology:
    """The whole of it, for one virtual host."""

    exchanges: tuple[Exchange, ...]
    queues: tuple[Queue, ...]
    bindings: tuple[Binding, ...]
    policies: tuple[Policy, ...]
    permissions: tuple[Permission, ...]


def topology(tiers: Sequence[str]) -> Topology:
    """The topology that serves these tiers."""
    lanes = tuple(lane(tier) for tier in tiers)
    return Topology(
        exchanges=(Exchange(TASKS), Exchange(EVENTS), Exchange(DEAD), Exchange(CONTROL, "fanout")),
        queues=tuple(
            Queue(name) for name in (*lanes, PERSISTER_QUEUE, BILLING_QUEUE, DEAD_TASKS_QUEUE, DEAD_EVENTS_QUEUE)
        ),
        bindings=(
            *(Binding(TASKS, lane(tier), tier) for tier in tiers),
            Binding(TASKS, PERSISTER_QUEUE, "#"),
            Binding(EVENTS, PERSISTER_QUEUE, "run.#"),
            Binding(EVENTS, BILLING_QUEUE, "usage.#"),
            Binding(DEAD, DEAD_TASKS_QUEUE, TASKS),
            Binding(DEAD, DEAD_EVENTS_QUEUE, EVENTS),
        ),
        policies=(
            Policy("lanes", r"^tasks\.", _working(TASKS, max_length=1_000_000, consumer_timeout_ms=240 * _MINUTE_MS)),
            Policy("events", r"^events\.", _working(EVENTS, max_length=5_000_000, consumer_timeout_ms=30 * _MINUTE_MS)),
            Policy("dead-letters", r"^dead\.", _dead(max_length=1_000_000)),
        ),
        permissions=_permissions(),
    )


def _working(family: str, *, max_length: int, consumer_timeout_ms: int) -> dict[str, Any]:
    return {
        "delivery-limit": DELIVERY_LIMIT,
        "dead-letter-exchange": DEAD,
        "dead-letter-routing-key": family,
        # At least once needs the publisher to be refused at the limit, which the gateway turns into a 503.
        "dead-letter-strategy": "at-least-once",
        "overflow": "reject-publish",
        "max-length": max_length,
        **_DELAYED_RETRY,
        # Well above the longest run: a timeout here would run a task twice.
        "consumer-timeout": consumer_timeout_ms,
        "queue-leader-locator": "balanced",
    }


def _dead(*, max_length: int) -> dict[str, Any]:
    return {
        "overflow": "reject-publish",
        "max-length": max_length,
        # A letter is the last copy of its message: there is nowhere else for it to go, however often it fails.
        "delivery-limit": -1,
        **_DELAYED_RETRY,
        "queue-leader-locator": "balanced",
    }


def _permissions() -> tuple[Permission, ...]:
    own_control = r"control\..*"
    nothing = "^$"
    return (
        # To write to a lane's queue itself lets the gateway ask how long it is, and take nothing out of it.
        Permission(
            GATEWAY,
            f"^{own_control}$",
            rf"^({TASKS}|tasks\..*|{CONTROL}|{own_control})$",
            f"^({CONTROL}|{own_control})$",
        ),
        # It rings for the runs that a message of their conversation has interrupted.
        Permission(
            AGENT_WORKER,
            f"^{own_control}$",
            f"^({EVENTS}|{CONTROL}|{own_control})$",
            rf"^(tasks\..*|{CONTROL}|{own_control})$",
        ),
        # It puts back what was parked.
        Permission(PERSISTER, nothing, f"^{TASKS}$", r"^(events\.persister|dead\..*)$"),
        # It tells of budgets, to whoever binds a queue to that.
        Permission(BILLING, nothing, f"^{EVENTS}$", r"^events\.billing$"),
    )


def definitions(plan: Topology, vhost: str) -> dict[str, Any]:
    """The broker's import format for one virtual host: idempotent, and readable beside the management UI."""
    return {
        "exchanges": [
            {"name": e.name, "type": e.type, "durable": True, "auto_delete": False, "internal": False, "arguments": {}}
            for e in plan.exchanges
        ],
        "queues": [
            {"name": q.name, "durable": True, "auto_delete": False, "arguments": {"x-queue-type": "quorum"}}
            for q in plan.queues
        ],
        "bindings": [
            {
                "source": b.source,
                "destination": b.queue,
                "destination_type": "queue",
                "routing_key": b.routing_key,
                "arguments": {},
            }
            for b in plan.bindings
        ],
        "policies": [
            {
                "vhost": vhost,
                "name": p.name,
                "pattern": p.pattern,
                "apply-to": "quorum_queues",
                "priority": 0,
                "definition": dict(p.definition),
            }
            for p in plan.policies
        ],
    }
