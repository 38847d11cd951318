"""The present time."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from agent_worker.tools.base import ToolError


async def current_time(time_zone: str = "UTC") -> str:
    """The current date and time in an IANA time zone such as `Europe/Zurich`, in ISO 8601."""
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ToolError(f"unknown time zone {time_zone!r}") from error
    return datetime.now(zone).isoformat(timespec="seconds")
