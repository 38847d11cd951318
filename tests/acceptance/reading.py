"""Reads a task's event stream as a careful client does, and holds it to its promises."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx2

from common.contracts.events import BEGINNING, EventId

_RECONNECT_SECONDS = 0.1


@dataclass(frozen=True)
class Received:
    """One event as the client got it."""

    id: EventId
    type: str
    data: dict[str, Any]


@dataclass
class Reading:
    """What was received so far. A hole, a repetition or a step back is an error the moment it is seen."""

    events: list[Received] = field(default_factory=list)
    connections: int = 0

    @property
    def last_id(self) -> EventId:
        """Where to go on from."""
        return self.events[-1].id if self.events else BEGINNING

    @property
    def done(self) -> bool:
        """Whether the stream has come to its end."""
        return bool(self.events) and self.events[-1].type == "done"

    @property
    def text(self) -> str:
        """The answer as a client shows it: resets drop what no longer stands."""
        shown: list[Received] = []
        for event in self.events:
            if event.type == "reset":
                after = EventId.parse(event.data["after"]) if event.data.get("after") else BEGINNING
                shown = [earlier for earlier in shown if earlier.id <= after]
            elif event.type == "token":
                shown.append(event)
        return "".join(event.data["text"] for event in shown)

    def add(self, event: Received) -> None:
        """Take an event, if it is the one that comes next."""
        last = self.last_id
        assert event.type != "gap", f"a gap after {last}: {event.data}"
        assert event.id > last, f"{event.id} after {last}"
        if event.id.fence == last.fence:
            assert event.id.seq == last.seq + 1, f"events are missing between {last} and {event.id}"
        else:
            assert event.id.seq == 1, f"the first event of fence {event.id.fence} that came is {event.id}"
            expected = {0: "status", 1: "start"}
            assert event.type in (expected.get(event.id.fence, event.type), "done")
        self.events.append(event)


async def events_of(response: httpx2.Response) -> AsyncIterator[Received]:
    """Parse server-sent events."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if not line:
            if "data" in fields:
                # A receipt and a gap have no id: they are no place to resume from.
                place = EventId.parse(fields["id"]) if "id" in fields else BEGINNING
                yield Received(place, fields["event"], json.loads(fields["data"]))
            fields = {}
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")


async def follow(client: httpx2.AsyncClient, task_id: str, reading: Reading, deadline: float = 60) -> Reading:
    """Read the stream to its end, connecting again with `Last-Event-ID` whenever it breaks off."""
    async with asyncio.timeout(deadline):
        while not reading.done:
            headers = {"Last-Event-ID": str(reading.last_id)} if reading.events else {}
            try:
                async with client.stream("GET", f"/v1/tasks/{task_id}/events", headers=headers) as response:
                    reading.connections += 1
                    response.raise_for_status()
                    async for event in events_of(response):
                        reading.add(event)
            except httpx2.HTTPError:
                await asyncio.sleep(_RECONNECT_SECONDS)
    return reading
