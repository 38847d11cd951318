"""How far the run is, in the agent's own words."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agent_worker.tools.context import ToolContext


async def report_progress(
    message: Annotated[str, Field(min_length=1, max_length=500, description="one short sentence")],
    percentage: Annotated[float, Field(ge=0, le=100, description="of the whole task")],
    context: ToolContext,
) -> str:
    """Tell the user how far you are with the task. Use it before and after each long part of the work."""
    await context.report(message, percentage)
    return "The user was told."
