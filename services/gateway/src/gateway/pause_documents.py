"""What is paused, as operators read it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from gateway.documents import Document
from gateway.pause_records import Scope


class Pause(Document):
    """Work that an operator has stopped."""

    scope: Scope
    name: str | None = Field(description="the tier, tenant id or agent; null for everything")
    kill: bool = Field(description="what ran was stopped and parked, too")
    by: str
    reason: str
    set_at: datetime


class PauseLogEntry(Document):
    """Who paused or resumed what."""

    at: datetime
    action: Literal["pause", "kill", "resume"]
    scope: Scope
    name: str | None
    by: str
    reason: str


class Pauses(Document):
    """What is paused now, the oldest first; and the log, the newest first."""

    pauses: list[Pause]
    log: list[PauseLogEntry]
