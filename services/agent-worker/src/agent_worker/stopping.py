"""Why a run is cut before its end."""

from __future__ import annotations

from enum import Enum


class StopReason(Enum):
    """Why a run is stopped from outside."""

    CANCELLED = "its cancel was asked for"
    LOST = "another worker has it"
    DRAINING = "this worker stops"
    PARKED = "it is to wait without a slot"
    DEFERRED = "no model can be had now"
    TIMED_OUT = "its time is up"
