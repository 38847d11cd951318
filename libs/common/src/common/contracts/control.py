"""What every process of a kind must hear at once: published to the fanout exchange `control`, never stored."""

from __future__ import annotations

from typing import ClassVar, Literal
from uuid import UUID

from common.contracts.base import Contract


class CancelRequested(Contract):
    """A running task is to be stopped now. The request itself is durable in `runtime.runs`; this is the bell."""

    KIND: ClassVar[str] = "control.cancel"
    kind: Literal["control.cancel"] = "control.cancel"
    version: Literal[1] = 1
    task_id: UUID
    tenant_id: UUID


class PausesChanged(Contract):
    """What operators have paused changed. The pauses themselves are rows of `runtime.pauses`; this is the bell."""

    KIND: ClassVar[str] = "control.pauses"
    kind: Literal["control.pauses"] = "control.pauses"
    version: Literal[1] = 1


class CancelsRequested(Contract):
    """Running tasks of one tenant are to be stopped now: one bell for all that one request cancels."""

    KIND: ClassVar[str] = "control.cancels"
    kind: Literal["control.cancels"] = "control.cancels"
    version: Literal[1] = 1
    tenant_id: UUID
    task_ids: tuple[UUID, ...]


class PrincipalsChanged(Contract):
    """A tenant's keys, users or plan changed: forget what is cached of them."""

    KIND: ClassVar[str] = "control.principals"
    kind: Literal["control.principals"] = "control.principals"
    version: Literal[1] = 1
    tenant_id: UUID
