"""All tools of a worker, with what they need: their own, and those of installed packages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

from agent_worker.settings import WorkerSettings, environment_of_tools
from agent_worker.tools.base import Tool
from agent_worker.tools.builtin import builtin_tools
from agent_worker.tools.fetching import fetching
from agent_worker.tools.guard import Guard
from agent_worker.tools.installed import with_installed
from agent_worker.tools.processes import Processes


@asynccontextmanager
async def offered(settings: WorkerSettings) -> AsyncIterator[Mapping[str, Tool]]:
    """By name. Nothing is connected, and no process started, before a tool needs it.

    Raises `ConfigurationError` for a package's tool that cannot be used.
    """
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(Processes(settings.tool_processes, environment_of_tools()))
        fetch = await stack.enter_async_context(fetching(Guard(allowed=settings.fetch_networks), processes))
        tools = with_installed(builtin_tools(fetch))
        yield {name: tool.computing_in(processes) for name, tool in tools.items()}
