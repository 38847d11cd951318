"""Tool calls arrive in fragments from every provider, and are put together here."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from agent_worker.providers.base import ToolCall


def tool_call(identifier: str, name: str, fragments: Sequence[str]) -> ToolCall:
    """The call whose arguments these fragments spell; malformed ones go back to the model as such.

    Arguments are stored, streamed and sent back: what cannot be written again (a number of forty digits, half a
    character, a thousand brackets) is not let in.
    """
    text = "".join(fragments) or "{}"
    try:
        arguments = orjson.loads(text)
        orjson.dumps(arguments)
    except (ValueError, TypeError) as error:
        return ToolCall(identifier, name, {}, malformed=f"the arguments are not usable JSON: {error}")
    if not isinstance(arguments, dict):
        return ToolCall(identifier, name, {}, malformed="the arguments are not a JSON object")
    return ToolCall(identifier, name, arguments)
