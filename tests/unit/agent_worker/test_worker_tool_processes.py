from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent_worker.providers.base import ToolCall
from agent_worker.settings import environment_of_tools
from agent_worker.tools.base import Tool, Toolbox
from agent_worker.tools.processes import Processes
from common.errors import ConfigurationError
from tests.stage import eventually
from tests.unit.agent_worker import computing


@pytest.fixture
async def processes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Processes]:
    monkeypatch.setenv("LANEWAY_ANTHROPIC_API_KEY", "secret")
    async with Processes(1, environment_of_tools()) as made:
        yield made


async def run(processes: Processes, tool: Tool, **arguments: object) -> tuple[str, bool]:
    box = Toolbox({tool.spec.name: tool.computing_in(processes)})
    result = await box.run(ToolCall("1", tool.spec.name, dict(arguments)))
    return result.content, result.is_error


async def test_a_plain_function_computes_in_a_process_that_stays(processes: Processes) -> None:
    patient = 60.0
    assert await run(processes, Tool.of(computing.square, timeout=patient), n="12") == ("144", False)
    assert await run(processes, Tool.of(computing.weekday, timeout=patient), day="2026-07-01") == ("Wednesday", False)
    whoami = Tool.of(computing.whoami, timeout=patient)
    first, second = await run(processes, whoami), await run(processes, whoami)
    assert first == second  # the same process, of which what is printed disturbs nothing
    assert first[0].split()[0] != str(os.getpid())
    assert first[0].split()[1] == "nothing"


async def test_what_does_not_end_is_killed_and_the_next_call_has_a_new_process(processes: Processes) -> None:
    whoami = Tool.of(computing.whoami, timeout=60.0)
    before, _ = await run(processes, whoami)
    content, is_error = await run(processes, Tool.of(computing.for_ever, timeout=0.5))
    assert (content, is_error) == ("for_ever did not finish within 0.5 s", True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(before.split()[0]), 0)
    after, is_error = await run(processes, whoami)
    assert not is_error
    assert after != before


async def test_a_cut_run_leaves_no_process_behind(processes: Processes, tmp_path: Path) -> None:
    pid = int((await run(processes, Tool.of(computing.whoami, timeout=60.0)))[0].split()[0])
    begun = tmp_path / "begun"
    endless = Tool.of(computing.for_ever_after, timeout=60.0)
    computation = asyncio.create_task(run(processes, endless, path=str(begun)))

    async def is_begun() -> bool:
        return begun.exists()

    await eventually(is_begun, 60)
    computation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await computation
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert await run(processes, Tool.of(computing.square, timeout=60.0), n=2) == ("4", False)


async def test_when_the_worker_stops_its_processes_do() -> None:
    async with Processes(1, environment_of_tools()) as processes:
        pid = int((await run(processes, Tool.of(computing.whoami, timeout=60.0)))[0].split()[0])
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_crash_and_a_full_memory_are_results(processes: Processes) -> None:
    content, is_error = await run(processes, Tool.of(computing.crashing, timeout=60.0))
    assert (content, is_error) == ("it took too much memory or time, or crashed", True)
    assert await run(processes, Tool.of(computing.gluttonous, timeout=60.0)) == (
        "gluttonous failed: MemoryError",
        True,
    )
    assert await run(processes, Tool.of(computing.refusing, timeout=60.0)) == ("not today", True)
    assert await run(processes, Tool.of(computing.broken, timeout=60.0)) == ("broken failed: RuntimeError", True)
    assert await run(processes, Tool.of(computing.square, timeout=60.0), n="many") == (
        "argument 'n': Input should be a valid integer, unable to parse string as an integer",
        True,
    )


async def test_as_many_compute_at_a_time_as_there_are_processes() -> None:
    whoami = Tool.of(computing.whoami, timeout=60.0)
    async with Processes(2, environment_of_tools()) as processes:
        answers = await asyncio.gather(*(run(processes, whoami) for _ in range(6)))
    assert not any(is_error for _, is_error in answers)
    assert len({content for content, _ in answers}) <= 2


def test_a_function_that_no_other_process_finds_cannot_compute() -> None:
    def hidden() -> str:
        """Within a test."""
        return ""

    with pytest.raises(ConfigurationError, match="must be one of its module's"):
        Tool.of(hidden)


async def test_without_processes_nothing_computes_in_the_loop() -> None:
    result = await Toolbox({"square": Tool.of(computing.square)}).run(ToolCall("1", "square", {"n": 2}))
    assert (result.content, result.is_error) == ("square failed: RuntimeError", True)
