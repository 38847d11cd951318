"""The messages and queues as an AsyncAPI document: `python -m common.messaging.asyncapi FILE`.

Generated from the contracts and the topology, so that it cannot say anything else than they do.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from common.catalogue import load_catalogue
from common.contracts import CONTRACTS
from common.messaging.topology import CONTROL, EVENTS, TASKS, Topology, topology

# By kind, where a message is published, and with which routing key.
ADDRESSES: dict[str, tuple[str, str]] = {
    "task.submitted": (TASKS, "{tier}"),
    "run.progressed": (EVENTS, "run.progressed"),
    "run.finished": (EVENTS, "run.finished"),
    "usage.recorded": (EVENTS, "usage.recorded"),
    "budget.warned": (EVENTS, "budget.warned"),
    "control.cancel": (CONTROL, ""),
    "control.pauses": (CONTROL, ""),
    "control.cancels": (CONTROL, ""),
    "control.principals": (CONTROL, ""),
}


def document(plan: Topology) -> dict[str, Any]:
    """The AsyncAPI 3.0 document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Laneway",
            "version": "1.0.0",
            "description": "What Laneway's services tell each other through RabbitMQ. Every message is persistent, "
            "carries CloudEvents attributes as `cloudEvents_*` headers, and a W3C `traceparent`.",
        },
        "defaultContentType": "application/json",
        "channels": {exchange.name: _channel(exchange.name, exchange.type, plan) for exchange in plan.exchanges},
        "operations": {
            f"publish.{kind}": {
                "action": "send",
                "channel": {"$ref": f"#/channels/{exchange}"},
                "summary": _summary(kind),
                "messages": [{"$ref": f"#/channels/{exchange}/messages/{kind}"}],
            }
            for kind, (exchange, _) in ADDRESSES.items()
        },
        "components": {"messages": {kind: _message(kind) for kind in CONTRACTS}},
    }


def _channel(name: str, kind: str, plan: Topology) -> dict[str, Any]:
    keys = {kind: key for kind, (exchange, key) in ADDRESSES.items() if exchange == name}
    bound = [f"`{b.queue}` (`{b.routing_key}`)" for b in plan.bindings if b.source == name]
    return {
        "address": name,
        "description": f"Feeds {', '.join(bound)}." if bound else "Heard by one exclusive queue for each process.",
        "messages": {kind: {"$ref": f"#/components/messages/{kind}"} for kind in keys},
        "bindings": {"amqp": {"is": "routingKey", "exchange": {"name": name, "type": kind, "durable": True}}},
        "x-routing-keys": keys,
    }


def _message(kind: str) -> dict[str, Any]:
    contract = CONTRACTS[kind]
    return {
        "name": kind,
        "summary": _summary(kind),
        "contentType": "application/json",
        "payload": contract.model_json_schema(ref_template="#/components/messages/" + kind + "/payload/$defs/{model}"),
    }


def _summary(kind: str) -> str:
    return " ".join((CONTRACTS[kind].__doc__ or kind).split())


def render(catalogue: Path) -> str:
    """The document as YAML."""
    plan = topology(load_catalogue(catalogue).tier_names)
    return yaml.safe_dump(document(plan), sort_keys=False, allow_unicode=True, width=120)


def main(arguments: list[str]) -> int:
    """Write the document for the catalogue in `deploy/catalogue`."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m common.messaging.asyncapi FILE\n")
        return 2
    Path(arguments[0]).write_text(render(Path("deploy/catalogue")), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
