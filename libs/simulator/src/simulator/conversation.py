"""A request to a model, in terms both providers share."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a dialect has read from a request body.

    `prompt` is the last message of the user, as sent; `rounds` how many rounds of tool calls the model has made
    since then. `input_tokens` counts everything sent: system text, messages, tool definitions and results.
    """

    model: str
    prompt: str
    rounds: int
    input_tokens: int
    tools: bool
    max_tokens: int | None
    stream: bool
    # Chat Completions: the client asked for the usage chunk at the end of a stream.
    include_usage: bool = False
    # What the answer is to match.
    schema: dict[str, Any] | None = None
    # Anthropic: thinking blocks are only shown to a client that enabled them.
    show_reasoning: bool = False
