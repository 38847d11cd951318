"""What `make demo` runs against a started stack: a client of the public HTTP interface, and nothing more.

Submits tasks of all three tiers, follows two of them live, waits for all, and prints what they waited, took and cost.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import httpx2

TIERS = ("enterprise", "pro", "free")
DEADLINE_SECONDS = 120
FINISHED = ("completed", "failed", "cancelled", "expired")
INPUT_CLASSES = ("input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")

PROMPTS = {
    "enterprise": (
        ("Summarize in two sentences why a task queue needs more than one priority lane.", ""),
        ("An order has 17 items at 249.50 each and a discount of 12 %. What is the total?", "17*249.5*0.88"),
        ("Draft a polite reply to a customer whose parcel is three days late.", ""),
        ("What is 6 times 7?", "6*7"),
    ),
    "pro": (
        ("Classify this ticket as bug, question or request: 'The export button does nothing.'", ""),
        ("A server answers 1,250 requests in 8 seconds. How many is that per second?", "1250/8"),
        ("Give three names for an internal tool that watches message queues.", ""),
        ("Rewrite politely: 'Send me the numbers now.'", ""),
    ),
    "free": (
        ("What is an AI agent?", ""),
        ("How many minutes are in a week?", "7*24*60"),
        ("Translate 'good morning' into French and Spanish.", ""),
        ("Name one advantage of quorum queues.", ""),
    ),
}
"""By tier: what is asked, and the sum to do with the calculator if the question has one."""
LIVE = "Explain in a few sentences what happens to a task between its submission and its answer."
CHAT = "Say in one sentence what you can help me with."


class DemoFailed(Exception):
    """The stack did not do what it promises; the message says which part."""


@dataclass
class Run:
    """One task of the demo and what became of it."""

    tier: str
    id: str
    how: str = "polled"
    task: dict[str, Any] = field(default_factory=dict)

    @property
    def settled(self) -> bool:
        """Finished, and, where it completed, accounted for: costs arrive a moment after the answer."""
        return self.task.get("status") in FINISHED and (
            self.task["status"] != "completed" or self.task.get("cost_usd") is not None
        )

    @property
    def complaint(self) -> str | None:
        """What is wrong with it; None when it did all that it should."""
        if self.task.get("status") != "completed":
            return f"is {self.task.get('status')}: {self.task.get('error')}"
        missing = [name for name in ("output", "usage", "cost_usd") if not self.task.get(name)]
        return f"has no {', '.join(missing)}" if missing else None


class Client:
    """One tenant's use of the interface."""

    def __init__(self, http: httpx2.AsyncClient, tier: str, key: str) -> None:
        self._http, self.tier = http, tier
        self._headers = {"Authorization": f"Bearer {key}"}

    async def submit(self, text: str) -> Run:
        """Submit one task."""
        answer = await self._http.post("/v1/tasks", json={"input": text}, headers=self._headers)
        if answer.status_code != 202:
            raise DemoFailed(f"a {self.tier} task was not accepted: {answer.status_code} {answer.text}")
        return Run(self.tier, answer.json()["id"])

    async def refresh(self, run: Run) -> None:
        """Read the task as it is now."""
        answer = await self._http.get(f"/v1/tasks/{run.id}", headers=self._headers)
        answer.raise_for_status()
        run.task = answer.json()

    async def follow(self, run: Run) -> int:
        """Print a task's answer as it is written; returns the number of events."""
        run.how = "streamed"
        async with self._http.stream("GET", f"/v1/tasks/{run.id}/events", headers=self._headers) as answer:
            return len([event async for event in _shown(answer)])

    async def chat(self, text: str) -> Run:
        """Submit and stream in one request."""
        run = Run(self.tier, "", "chat")
        body = {"input": text}
        async with self._http.stream("POST", "/v1/chat/stream", json=body, headers=self._headers) as answer:
            run.id = answer.headers.get("location", "").rpartition("/")[2]
            async for name, data in _shown(answer):
                run.id = run.id or (data.get("task_id", "") if name == "start" else "")
        return run


async def _shown(answer: httpx2.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """The stream's events until `done`, printing the tokens on the way."""
    if answer.status_code not in (200, 202):
        await answer.aread()
        raise DemoFailed(f"the stream was refused: {answer.status_code} {answer.text}")
    async for name, data in events(answer.aiter_lines()):
        if name == "token":
            print(data.get("text", ""), end="", flush=True)
        yield name, data
        if name == "done":
            print("\n")
            return
    raise DemoFailed("the stream ended before the task was done")


async def events(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Server-sent events as (name, data)."""
    name, data = "message", ""
    async for line in lines:
        if line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data += line[5:].strip()
        elif not line and data:
            yield name, json.loads(data)
            name, data = "message", ""


async def demo(addresses: Mapping[str, str], say: Callable[[str], None] = print) -> bool:
    """Run the demo; True when everything worked."""
    simulated = "SIMULATOR_URL" in addresses
    say(f"Laneway at {addresses['LANEWAY_URL']}, broker at {addresses['RABBITMQ_UI']}\n")
    if simulated:
        say("No model key is set: all answers below are SIMULATED by a local stand-in for the model providers.\n")
    async with httpx2.AsyncClient(base_url=addresses["LANEWAY_URL"], timeout=60, trust_env=False) as http:
        clients = {tier: Client(http, tier, addresses[f"LANEWAY_KEY_{tier.upper()}"]) for tier in TIERS}
        async with asyncio.timeout(DEADLINE_SECONDS):
            runs = await _submit_all(clients, simulated)
            runs += await _stream_two(clients, say)
            await asyncio.gather(*(_settle(clients[run.tier], run) for run in runs))
    say(table(runs, simulated))
    complaints = [f"{run.tier} task {run.id} {run.complaint}" for run in runs if run.complaint]
    for complaint in complaints:
        say(complaint)
    say(f"\n{len(runs) - len(complaints)} of {len(runs)} tasks completed, streamed and accounted for.")
    return not complaints


async def _submit_all(clients: Mapping[str, Client], simulated: bool) -> list[Run]:
    """Free first, so that the lanes have something to do for those who come later."""
    return [
        await clients[tier].submit(_prompt(text, expression, simulated))
        for tier in reversed(TIERS)
        for text, expression in PROMPTS[tier]
    ]


def _prompt(text: str, expression: str, simulated: bool) -> str:
    """The simulator is told by a directive to use the calculator; a real model finds that out by itself."""
    if not (simulated and expression):
        return text
    arguments = json.dumps({"expression": expression})
    return f'{text} [[sim tool=calculator:{arguments} text="I did the sum with the calculator."]]'


async def _stream_two(clients: Mapping[str, Client], say: Callable[[str], None]) -> list[Run]:
    live = await clients["enterprise"].submit(LIVE)
    say(f"> {LIVE}   (enterprise, streamed)")
    count = await clients["enterprise"].follow(live)
    say(f"  {count} events\n\n> {CHAT}   (pro, submitted and streamed in one request)")
    return [live, await clients["pro"].chat(CHAT)]


async def _settle(client: Client, run: Run) -> None:
    while not run.settled:
        await client.refresh(run)
        if not run.settled:
            await asyncio.sleep(0.1)


def table(runs: list[Run], simulated: bool) -> str:
    """The runs for a person, tier by tier."""
    header = ("TIER", "TASK", "HOW", "MODEL", "STATUS", "WAITED ms", "TOOK ms", "IN", "OUT", "COST USD")
    rows = [header, *(_cells(run, simulated) for tier in TIERS for run in runs if run.tier == tier)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _cells(run: Run, simulated: bool) -> tuple[str, ...]:
    task, usage = run.task, run.task.get("usage") or {}
    model = str(task.get("model") or "-")
    return (
        run.tier,
        run.id[-12:],
        run.how,
        f"{model} (simulated)" if simulated else model,
        str(task.get("status")),
        str(task.get("queued_ms")),
        str(task.get("duration_ms")),
        str(sum(usage.get(name) or 0 for name in INPUT_CLASSES)),
        str(usage.get("output_tokens")),
        "-" if task.get("cost_usd") is None else f"{Decimal(str(task['cost_usd'])):.6f}",
    )


def main(addresses: Mapping[str, str]) -> int:
    """Run the demo; the status for the shell, with one sentence when something is wrong."""
    try:
        return 0 if asyncio.run(demo(addresses)) else 1
    except TimeoutError:
        reason = f"the tasks were not all finished and accounted for within {DEADLINE_SECONDS} s"
    except KeyError as error:
        reason = f"the stack did not say its {error}"
    except (DemoFailed, httpx2.HTTPError) as error:
        reason = str(error) or repr(error)
    print(f"demo failed: {reason}", file=sys.stderr)
    return 1
