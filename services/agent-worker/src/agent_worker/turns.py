"""Turns of the conversation, made of what a model said and of what its tools answered."""

from __future__ import annotations

from collections.abc import Sequence

from agent_worker.providers.base import Block, Piece, TextDelta, ToolCall, Turn
from agent_worker.tools.base import ToolResult


def assistant_turn(pieces: list[Piece]) -> Turn:
    """What a model said."""
    blocks: list[Block] = []
    text = text_of(pieces)
    if text.strip():  # a text of blanks, as models write before a tool call, is refused when it is sent back
        blocks.append({"type": "text", "text": text})
    blocks += [
        {"type": "tool_call", "id": piece.id, "name": piece.name, "arguments": piece.arguments}
        for piece in pieces
        if isinstance(piece, ToolCall)
    ]
    return Turn("assistant", tuple(blocks))


def text_of(pieces: list[Piece]) -> str:
    """The words alone."""
    return "".join(piece.text for piece in pieces if isinstance(piece, TextDelta))


def tool_turn(results: Sequence[ToolResult]) -> Turn:
    """What the tools answer."""
    return Turn(
        "tool",
        tuple(
            {"type": "tool_result", "id": r.id, "name": r.name, "content": r.content, "is_error": r.is_error}
            for r in results
        ),
    )


def user_turn(text: str) -> Turn:
    """What we say in the user's place."""
    return Turn("user", ({"type": "text", "text": text},))
