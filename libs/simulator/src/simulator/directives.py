"""Directives in a prompt: `[[sim key=value key="quoted value" tool=name:{json} ...]]`.

A value is a JSON string in double quotes, or runs up to the next blank or `]]`. The value of `tool` is a name,
alone or with `:` and a JSON object, which may itself hold blanks, quotes and brackets. Several directives in one
text are read as one; `tool` may be repeated, of any other key the last one counts.
"""

import json
import re
from typing import NamedTuple

from pydantic import ValidationError

from simulator.errors import DirectiveInvalid
from simulator.script import Script

_MARK = "[[sim"
_OPEN = re.compile(r"\[\[sim(?=\s|\]\])")
_KEY = re.compile(r"\s*([a-z_]+)=")
_CLOSE = re.compile(r"\s*\]\]")
_BARE = re.compile(r"(?:(?!\]\])\S)+")
_TOOL_NAME = re.compile(r'([^\s:"\]]+):(?=\{)')
_JSON = json.JSONDecoder()


class Prompt(NamedTuple):
    """A prompt without its directives, and what they said."""

    text: str
    script: Script


_NOTHING_SAID = Script()


def parse(prompt: str) -> Prompt:
    """Take the directives out of a prompt.

    :raises DirectiveInvalid: one of them is malformed, has an unknown key or a bad value.
    """
    if _MARK not in prompt:
        return Prompt(prompt, _NOTHING_SAID)
    values: dict[str, object] = {}
    kept: list[str] = []
    position = 0
    while opening := _OPEN.search(prompt, position):
        kept.append(prompt[position : opening.start()])
        position = _read_directive(prompt, opening.end(), values)
    kept.append(prompt[position:])
    try:
        return Prompt("".join(kept).strip(), Script.model_validate(values))
    except ValidationError as error:
        raise DirectiveInvalid(f"[[sim]] directive: {explain(error)}") from None


def explain(error: ValidationError) -> str:
    """A validation error in one line: where, and what is wrong."""
    return "; ".join(
        f"{'.'.join(str(part) for part in problem['loc']) or 'keys'}: {problem['msg']}" for problem in error.errors()
    )


def _read_directive(prompt: str, position: int, values: dict[str, object]) -> int:
    """Read `key=value` pairs into `values` up to the closing brackets; returns the position behind them."""
    while not (end := _CLOSE.match(prompt, position)):
        key = _KEY.match(prompt, position)
        if not key:
            raise DirectiveInvalid(
                f"[[sim]] directive: expected key=value or ]] at {prompt[position : position + 20]!r}"
            )
        name = key.group(1)
        value, position = _read_value(prompt, key.end(), name)
        if name == "tool":
            earlier = values.setdefault("tool", [])
            assert isinstance(earlier, list)  # noqa: S101  (only ever set on the line above)
            earlier.append(value)
        else:
            values[name] = value
    return end.end()


def _read_value(prompt: str, position: int, key: str) -> tuple[object, int]:
    try:
        if prompt.startswith('"', position):
            return _JSON.raw_decode(prompt, position)
        if key == "tool" and (name := _TOOL_NAME.match(prompt, position)):
            arguments, end = _JSON.raw_decode(prompt, name.end())
            return {"name": name.group(1), "arguments": arguments}, end
    except json.JSONDecodeError as error:
        raise DirectiveInvalid(f"[[sim]] directive: the value of {key} is not JSON: {error}") from None
    bare = _BARE.match(prompt, position)
    if not bare:
        raise DirectiveInvalid(f"[[sim]] directive: {key} has no value")
    return bare.group(), bare.end()
