"""Tool calls arrive in fragments from every provider, and are put together here."""

from __future__ import annotations

import json

from agent_worker.providers.base import ToolCall


def tool_call(identifier: str, name: str, fragments: list[str]) -> ToolCall:
    """The call whose arguments these fragments spell; malformed ones go back to the model as such."""
    text = "".join(fragments) or "{}"
    try:
        arguments = json.loads(text)
    except ValueError as error:
        return ToolCall(identifier, name, {}, malformed=f"the arguments are not JSON: {error}")
    if not isinstance(arguments, dict):
        return ToolCall(identifier, name, {}, malformed="the arguments are not a JSON object")
    return ToolCall(identifier, name, arguments)
