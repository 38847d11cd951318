"""The answer to a conversation as its script wants it, before any provider's format."""

from dataclasses import dataclass
from typing import Any, Literal

import orjson

from simulator.conversation import Conversation
from simulator.schemas import instance
from simulator.script import Script
from simulator.tokens import count, filler, pieces

Stop = Literal["end", "length", "tools"]

_ECHOED = 80


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one answer in disjoint parts: the whole prompt is `input + cache_read + cache_write`.

    `output` includes `reasoning`. Each dialect adds the parts up the way its provider reports them.
    """

    input: int
    cache_read: int
    cache_write: int
    output: int
    reasoning: int

    @property
    def prompt(self) -> int:
        """All tokens of the prompt, cached or not."""
        return self.input + self.cache_read + self.cache_write


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call of the answer, with its arguments as JSON text."""

    id: str
    name: str
    arguments: str

    @property
    def tokens(self) -> int:
        """One or more for the name, and one for each piece of the arguments that is streamed."""
        return count(self.name) + count(self.arguments)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: reasoning first, then either text or tool calls."""

    uid: str
    model: str
    created: int
    conversation: Conversation
    reasoning: int
    text: list[str]
    calls: list[Call]
    stop: Stop
    usage: Usage
    # Whether the first token leaves together with the opening of a stream.
    immediate: bool


def compose(conversation: Conversation, script: Script, prompt: str, uid: str, created: int) -> Answer:
    """Answer the conversation by the script, within the client's limit of tokens.

    `prompt` is the user's text without directives, echoed when the script says nothing better.
    """
    budget = conversation.max_tokens
    if budget is None:
        budget = 1 << 62
    reasoning = min(script.reasoning, budget)
    budget -= reasoning
    text: list[str] = []
    calls: list[Call] = []
    if conversation.tools and script.tool and conversation.rounds < script.steps:
        calls, spent, whole = _fitting_calls(script, uid, budget)
    else:
        text, whole = _fitting_text(script, prompt, conversation.schema, budget)
        spent = len(text)
    stop: Stop = "length" if not whole else "tools" if calls else "end"
    return Answer(
        uid=uid,
        model=conversation.model,
        created=created,
        conversation=conversation,
        reasoning=reasoning,
        text=text,
        calls=calls,
        stop=stop,
        usage=_usage(conversation, script, reasoning + spent, reasoning),
        immediate=script.ttft == 0 and (script.fault == "none" or script.fault_after > 0),
    )


def _fitting_calls(script: Script, uid: str, budget: int) -> tuple[list[Call], int, bool]:
    """The calls that fit whole into the budget, their tokens, and whether that is all of them."""
    calls: list[Call] = []
    spent = 0
    for number, tool in enumerate(script.tool):
        call = Call(f"{uid}{number:02d}", tool.name, tool.arguments_json)
        if spent + call.tokens > budget:
            return calls, spent, False
        calls.append(call)
        spent += call.tokens
    return calls, spent, True


def _fitting_text(script: Script, prompt: str, schema: dict[str, Any] | None, budget: int) -> tuple[list[str], bool]:
    if script.tokens is not None:
        return filler(min(script.tokens, budget)), script.tokens <= budget
    text = script.text
    if text is None and schema is not None:
        text = orjson.dumps(instance(schema)).decode()
    elif text is None:
        text = f"This is a simulated answer to: {prompt[:_ECHOED]}"
    tokens = pieces(text)
    return tokens[:budget], len(tokens) <= budget


def _usage(conversation: Conversation, script: Script, output: int, reasoning: int) -> Usage:
    # A scripted cache hit may be larger than the short prompt of a test: then the prompt counts as that large.
    cached = script.cached + script.cache_write
    return Usage(
        input=max(conversation.input_tokens - cached, 0),
        cache_read=script.cached,
        cache_write=script.cache_write,
        output=output,
        reasoning=reasoning,
    )
