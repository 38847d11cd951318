"""How large what a model reads is: about, for estimates, and at most, for holds and for what must fit its window."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent_worker.providers.base import Turn, json_bytes
from agent_worker.providers.schemas import closed, one_type_each
from agent_worker.tools.base import Toolbox

# The usual length of a token in English text; only for estimates, never for a bound.
_BYTES_PER_TOKEN = 4
_BYTES_PER_TURN = 64
_BYTES_PER_CALL = 1024


def tokens_of(size: int) -> int:
    """About how many tokens a text of so many bytes is."""
    return -(-size // _BYTES_PER_TOKEN)


def text_bytes(system: str, turns: tuple[Turn, ...]) -> int:
    """Bytes of what is said in the input."""
    return len(system.encode()) + sum(turn.size for turn in turns)


def turns_bytes(turns: tuple[Turn, ...]) -> int:
    """How many tokens some turns add to an input at most, with what is wrapped around them."""
    return text_bytes("", turns) + _BYTES_PER_TURN * len(turns)


def said_bytes(turns: tuple[Turn, ...]) -> int:
    """Bytes of what a model has said in some turns: its texts, and the arguments of its tool calls."""
    blocks = (block for turn in turns if turn.role == "assistant" for block in turn.content)
    return sum(json_bytes(block["text"] if block["type"] == "text" else block["arguments"]) for block in blocks)


def overhead(turns: tuple[Turn, ...], tools: Toolbox, schema: Mapping[str, Any] | None = None) -> int:
    """Bytes of the tools and the response schema, and what the providers wrap around each message and tool at most.

    With the text a number of tokens that the input cannot exceed: one for each byte, as no tokenizer makes more.
    """
    schemas = sum(tool.size for tool in tools.specs)
    # What a provider has no keyword for is put into words, which is not longer than the keyword and its value.
    form = 2 * json_bytes(one_type_each(closed(schema))) if schema is not None else 0
    return schemas + form + _BYTES_PER_TURN * (len(turns) + len(tools.specs)) + _BYTES_PER_CALL
