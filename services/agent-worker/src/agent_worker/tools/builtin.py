"""The tools that come with Laneway."""

from __future__ import annotations

from collections.abc import Mapping

from agent_worker.tools.base import Tool, Toolbox
from agent_worker.tools.calculator import calculator
from agent_worker.tools.clock import current_time
from agent_worker.tools.progress import report_progress
from agent_worker.tools.searching import search_documents
from common.catalogue import Catalogue
from common.errors import ConfigurationError


def builtin_tools(*served: Tool) -> dict[str, Tool]:
    """By name; `served` are those that keep connections."""
    tools = (
        Tool.of(calculator, timeout=2.0),
        Tool.of(current_time, timeout=2.0),
        Tool.of(report_progress, timeout=5.0),
        Tool.of(search_documents),
        *served,
    )
    return {tool.spec.name: tool for tool in tools}


def toolboxes(catalogue: Catalogue, tools: Mapping[str, Tool]) -> dict[str, Toolbox]:
    """Each agent's own. Raises `ConfigurationError` for an agent that names a tool which does not exist, or asks
    for approval of one that it does not have."""
    boxes = {}
    for agent in catalogue.agents:
        unknown = [name for name in agent.tools if name not in tools]
        if unknown:
            raise ConfigurationError(
                f"Agent {agent.name!r} names the tool {unknown[0]!r}; there are: {', '.join(sorted(tools))}."
            )
        asked = () if agent.approvals.tools == "side_effects" else agent.approvals.tools
        if strange := [name for name in asked if name not in agent.tools]:
            raise ConfigurationError(
                f"Agent {agent.name!r} asks for approval of the tool {strange[0]!r}, which is none of its tools."
            )
        boxes[agent.name] = Toolbox({name: tools[name] for name in agent.tools}, agent.approvals)
    return boxes
