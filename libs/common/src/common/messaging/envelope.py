"""The envelope: CloudEvents attributes as headers beside the AMQP fields, and the contract's JSON as the body."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import aio_pika
import uuid_utils.compat
from opentelemetry.propagate import inject

from common.contracts import Contract, decode

_SPEC_VERSION = "1.0"


@dataclass(frozen=True, slots=True)
class Sender:
    """Who publishes: the service's name, and the broker user that the broker verifies."""

    service: str
    user: str


def seal(contract: Contract, *, subject: UUID, stable_id: str, priority: int, sender: Sender) -> aio_pika.Message:
    """A persistent message. `stable_id` names the effect; the AMQP message id is new for each attempt to publish.

    The same message id in flight twice on a channel could turn an unroutable publish into a false confirm.
    """
    headers: dict[str, Any] = {
        "cloudEvents_specversion": _SPEC_VERSION,
        "cloudEvents_id": stable_id,
        "cloudEvents_type": f"laneway.{contract.kind}.v{contract.version}",
        "cloudEvents_source": f"/laneway/{sender.service}",
        "cloudEvents_subject": str(subject),
    }
    inject(headers)
    return aio_pika.Message(
        contract.encode(),
        headers=headers,
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        priority=priority,
        message_id=str(uuid_utils.compat.uuid4()),
        correlation_id=str(subject),
        timestamp=datetime.now(UTC),
        type=contract.kind,
        app_id=sender.service,
        user_id=sender.user,
    )


def unseal(message: aio_pika.abc.AbstractIncomingMessage) -> Contract:
    """The contract inside. Raises `DecodeError`."""
    return decode(message.type, message.body)
