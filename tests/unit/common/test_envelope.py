"""The envelope: CloudEvents beside the AMQP fields, persistent, with a message id of its own for each attempt."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import UUID, uuid4

import aio_pika
import pytest
from opentelemetry.sdk.trace import TracerProvider

from common.contracts import CancelRequested, decode
from common.errors import DecodeError
from common.messaging.envelope import Sender, seal

TASK, TENANT = uuid4(), uuid4()
SENDER = Sender("gateway", "broker-user")


def _sealed(stable_id: str = "stable") -> aio_pika.Message:
    contract = CancelRequested(task_id=TASK, tenant_id=TENANT)
    return seal(contract, subject=TASK, stable_id=stable_id, priority=29, sender=SENDER)


def test_the_fields_of_the_protocol() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    message = _sealed()
    assert message.delivery_mode is aio_pika.DeliveryMode.PERSISTENT
    assert (message.type, message.content_type, message.priority) == ("control.cancel", "application/json", 29)
    assert (message.app_id, message.user_id, message.correlation_id) == ("gateway", "broker-user", str(TASK))
    assert message.timestamp is not None
    assert message.timestamp >= before


def test_the_attributes_of_cloudevents() -> None:
    assert {key: value for key, value in _sealed().headers.items() if key.startswith("cloudEvents_")} == {
        "cloudEvents_specversion": "1.0",
        "cloudEvents_id": "stable",
        "cloudEvents_type": "laneway.control.cancel.v1",
        "cloudEvents_source": "/laneway/gateway",
        "cloudEvents_subject": str(TASK),
    }


def test_each_attempt_has_its_own_message_id_and_the_same_stable_id() -> None:
    one, other = _sealed("effect"), _sealed("effect")
    assert one.message_id != other.message_id
    assert UUID(one.message_id)
    assert one.headers["cloudEvents_id"] == other.headers["cloudEvents_id"] == "effect"


def test_the_trace_goes_along() -> None:
    with TracerProvider().get_tracer("test").start_as_current_span("publish") as span:
        trace = f"{span.get_span_context().trace_id:032x}"
        message = _sealed()
    assert trace in str(message.headers["traceparent"])


def test_the_body_is_the_contract() -> None:
    message = _sealed()
    assert decode(message.type, message.body) == CancelRequested(task_id=TASK, tenant_id=TENANT)
    assert json.loads(message.body)["kind"] == "control.cancel"


@pytest.mark.parametrize(
    ("kind", "body", "reason"),
    [
        (None, b"{}", "unknown kind of message: None"),
        ("nobody.knows", b"{}", "unknown kind of message: 'nobody.knows'"),
        ("control.cancel", b"\xff", "control.cancel: body: "),
        ("control.cancel", b"[]", "control.cancel: body: "),
        ("control.cancel", b'{"task_id": 1}', "control.cancel: task_id: "),
    ],
)
def test_what_is_no_message_says_why(kind: str | None, body: bytes, reason: str) -> None:
    with pytest.raises(DecodeError) as refused:
        decode(kind, body)
    assert refused.value.reason.startswith(reason)
