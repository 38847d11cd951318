"""The matrix: one run for each point, its worker killed there, and what must hold of it when another has gone on."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias
from uuid import UUID, uuid4

import httpx2

from common.contracts import RunFinished
from common.contracts.events import BEGINNING, EventId
from tests.acceptance.reading import Reading, Received, follow
from tests.acceptance.stack import SERVICES, Stack, running
from tests.acceptance.tasks import ended, submit
from tests.chaos import notes
from tests.chaos.mortal import MARKS, died, survived
from tests.proving.verdict import judge, settle_down
from tests.servers import Servers
from tests.stage import CATALOGUE, eventually, staged

STEPS = 2
"""That call both tools; one more answers."""
_AGENT = """
  - name: noting
    version: 1
    system: You note what you compute.
    model: claude-haiku-4-5
    tools: [calculator, note]
    timeout_seconds: 3600
    max_steps: 40
    max_output_tokens: 1024
"""
_ANSWER = "It is computed and noted."
_WORKERS = ("agent-worker-1", "agent-worker-2")
_MORTAL = "tests.chaos.mortal"
_REPOSITORY = Path(__file__).parents[2]
# On a machine that stands still a lease may be lost without any death: that is not what is looked at.
_WORKER = {"LANEWAY_LEASE_SECONDS": "1", "LANEWAY_QUARANTINE_AFTER": "9", "LANEWAY_MAX_ATTEMPTS": "9"}
_SWEEPING = {"LANEWAY_SWEEP_INTERVAL": "1", "LANEWAY_SWEEP_GRACE": "3", "LANEWAY_SWEEP_DOUBT": "5"}
DEADLINE = 120.0
When: TypeAlias = Literal["before", "after"]
Fate: TypeAlias = Literal["dies", "stands"]


@dataclass(frozen=True)
class Point:
    """Where the worker dies; or stands still, until another has brought the run to its end."""

    at: int
    when: When
    fate: Fate = "dies"

    def __str__(self) -> str:
        return f"{self.when} {self.at}" if self.fate == "dies" else f"standing still {self.when} {self.at}"


@dataclass
class Found:
    """What became of one run."""

    point: Point
    task: str
    died: bool
    suspensions: int | None = None
    """Of a run whose worker lived."""
    attempts: int = 1
    output_tokens: int = 0
    """Of the answers that stand."""
    unknown: int = 0
    """Calls of which the model was told that nobody knows."""
    wrong: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Grounds:
    """The stack, and where its workers leave their marks."""

    stack: Stack
    folder: Path

    @property
    def notes(self) -> Counter[str]:
        """How often each was noted."""
        return _words(self.folder / "notes")

    @property
    def begun(self) -> Counter[str]:
        """How often it was begun to note each."""
        return _words(notes.begun(self.folder / "notes"))

    async def strike(self, client: httpx2.AsyncClient, point: Point) -> Found:
        """Let a run's worker die at this point, and look at what has become of the run."""
        text = uuid4().hex
        script = f'tool=calculator:{{"expression":"6*7"}} tool=note:{{"text":"{text}"}} steps={STEPS} text="{_ANSWER}"'
        dies = {"dies_at": str(point.at), "when": point.when, "fate": point.fate}
        task = await submit(client, f"Compute and note [[sim {script}]]", agent="noting", metadata=dies)
        reading = await follow(client, task["id"], Reading(), DEADLINE)
        finished = await ended(client, task["id"], DEADLINE)
        found = await self._fate(point, task["id"])
        wrong = self._stream(reading, finished)
        if found.died and point.fate == "stands":
            wrong += await self._goes_on(task["id"], text)
        found.unknown = await self._effects(task["id"], text, finished, wrong)
        used = [event.data["output_tokens"] for event in standing(reading) if event.type == "usage"]
        found.output_tokens, found.attempts = sum(used), finished["attempts"]
        found.wrong = [f"{point}: {what}" for what in wrong]
        return found

    async def _fate(self, point: Point, task: str) -> Found:
        async def decided() -> bool:
            return died(self.folder, task).exists() or survived(self.folder, task).exists()

        await eventually(decided, DEADLINE)
        if died(self.folder, task).exists():
            return Found(point, task, died=True)
        suspensions = int(survived(self.folder, task).read_text(encoding="utf-8"))
        return Found(point, task, died=False, suspensions=suspensions)

    async def _goes_on(self, task: str, text: str) -> list[str]:
        """Let the worker that stood still go on, until it has done with the run; what is wrong in what it still did."""
        before = self.begun[text]
        os.kill(int(died(self.folder, task).read_text(encoding="utf-8")), signal.SIGCONT)

        async def over() -> bool:
            return survived(self.folder, task).exists()

        await eventually(over, DEADLINE)
        late = self.begun[text] - before
        return [f"{late} calls were begun when the run was another's, and over"] if late else []

    def _stream(self, reading: Reading, finished: dict[str, Any]) -> list[str]:
        """What is wrong with the end, and with the stream beyond what `Reading` refuses."""
        wrong: list[str] = []
        if (finished["status"], finished["output"]) != ("completed", _ANSWER):
            wrong.append(f"it ended as {finished['status']} with {finished['output']!r}: {finished.get('error')}")
        if reading.text != _ANSWER:
            wrong.append(f"the stream says {reading.text!r}")
        told = Counter(event.type for event in standing(reading))
        # The beginning of a run that is begun anew is its reset.
        expected = {"usage": STEPS + 1, "tool_start": 2 * STEPS, "tool_end": 2 * STEPS, "done": 1}
        if {kind: told[kind] for kind in expected} != expected:
            wrong.append(f"what stands of the stream has {dict(told)}")
        if finished["steps"] != STEPS + 1:
            wrong.append(f"it took {finished['steps']} steps")
        return wrong

    async def _effects(self, task: str, text: str, finished: dict[str, Any], wrong: list[str]) -> int:
        """Each call of the tool made once; one whose outcome nobody knows once at most, and the model was told."""
        [run] = await self.stack.rows("SELECT outcome FROM runtime.runs WHERE task_id = $1", UUID(task))
        blocks = [block for message in RunFinished.decode(run["outcome"]).messages for block in message.content]
        results = [block for block in blocks if block["type"] == "tool_result"]
        computed = [block["content"] for block in results if block["name"] == "calculator"]
        noted = [block for block in results if block["name"] == "note"]
        known = sum(block["content"] == f"noted {text}" for block in noted)
        unknown = sum("is not known" in block["content"] for block in noted)
        made = self.notes[text]
        if computed != ["42"] * STEPS or known + unknown != STEPS:
            wrong.append(f"the tools answered {[block['content'] for block in results]}")
        if not known <= made <= known + unknown or unknown >= finished["attempts"]:
            wrong.append(f"noted {made} times: {known} results are known, {unknown} are not")
        return unknown

    async def books(self, found: Sequence[Found]) -> list[str]:
        """What is wrong in the books, once all is settled: with any of these runs, and as a whole."""
        await settle_down(self.stack, DEADLINE)
        return [what for one in found for what in await self._charged(one)] + (await judge(self.stack)).differences

    async def _charged(self, found: Found) -> list[str]:
        """Those calls whose answers stand are all accounted for, and beside them one at most for each worker before the
        last: the call that this one died in."""
        query = "SELECT step, output_tokens FROM billing.usage WHERE task_id = $1 ORDER BY step, call"
        rows = await self.stack.rows(query, UUID(found.task))
        steps, tokens = [row["step"] for row in rows], sum(row["output_tokens"] for row in rows)
        again = len(steps) - (STEPS + 1)
        if set(steps) != set(range(1, STEPS + 2)) or again >= found.attempts or tokens < found.output_tokens:
            return [f"{found.point}: charged for calls of the steps {steps}, {tokens} tokens of {found.output_tokens}"]
        return []


def _words(file: Path) -> Counter[str]:
    return Counter(file.read_text(encoding="utf-8").split() if file.exists() else ())


def standing(reading: Reading) -> list[Received]:
    """What a client still shows at the end."""
    stands: list[Received] = []
    for event in reading.events:
        if event.type == "reset":
            after = EventId.parse(event.data["after"]) if event.data.get("after") else BEGINNING
            stands = [earlier for earlier in stands if earlier.id <= after]
        stands.append(event)
    return stands


@contextmanager
def grounds(servers: Servers, folder: Path) -> Iterator[Grounds]:
    """Two mortal workers, and all other services."""
    catalogue, packages, logs, marks = (folder / name for name in ("catalogue", "packages", "logs", "marks"))
    for made in (packages, logs, marks):
        made.mkdir(parents=True)
    shutil.copytree(CATALOGUE, catalogue)
    with (catalogue / "agents.yaml").open("a", encoding="utf-8") as agents:
        agents.write(_AGENT)
    notes.install(packages)
    path = {"PYTHONPATH": f"{packages}:{_REPOSITORY}", MARKS: str(marks), notes.NOTES: str(marks / "notes")}
    settings = {**{name: {**_WORKER, **path} for name in _WORKERS}, "billing": _SWEEPING}
    modules = dict.fromkeys(_WORKERS, _MORTAL)
    with staged(servers, catalogue) as stage, running(stage, logs, SERVICES, settings, modules) as stack:
        yield Grounds(stack, marks)


def spread(suspensions: int, count: int, fate: Fate = "dies") -> list[Point]:
    """So many points over a run that waits so often."""
    places = [round(suspensions * (n + 0.5) / count) for n in range(count)]
    return [Point(at, "after" if n % 2 else "before", fate) for n, at in enumerate(places)]
