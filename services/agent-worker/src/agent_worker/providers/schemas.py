"""A task's response schema as the providers take it. What they leave out of it is checked when the answer is there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What OpenAI's strict mode knows. With anything else it is asked for the same without its guarantee.
_STRICT = frozenset(
    {
        "$defs", "$ref", "additionalProperties", "anyOf", "const", "description", "enum", "exclusiveMaximum",
        "exclusiveMinimum", "format", "items", "maxItems", "maximum", "minItems", "minimum", "multipleOf", "pattern",
        "properties", "required", "title", "type",
    }
)  # fmt: skip
_SAID = ("title", "description", "default", "examples", "$defs")
_OWNER = {"properties": "object", "required": "object", "additionalProperties": "object", "items": "array"}


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same with objects that have no other properties than theirs, as both providers want it: what matches this
    matches that."""
    made = {name: value for name, value in schema.items() if name != "$schema"}
    for name in ("properties", "$defs"):
        if name in made:
            made[name] = {key: closed(part) for key, part in made[name].items()}
    if "anyOf" in made:
        made["anyOf"] = [closed(part) for part in made["anyOf"]]
    if "items" in made:
        made["items"] = closed(made["items"])
    if "object" in _types(made):
        made = {"properties": {}, **made, "additionalProperties": False}
    return made


def one_type_each(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same with a choice of schemas where one has a choice of types, which Anthropic's does not know."""
    made = dict(schema)
    for name in ("properties", "$defs"):
        if name in made:
            made[name] = {key: one_type_each(part) for key, part in made[name].items()}
    if "anyOf" in made:
        made["anyOf"] = [one_type_each(part) for part in made["anyOf"]]
    if "items" in made:
        made["items"] = one_type_each(made["items"])
    if isinstance(made.get("type"), list) and not {"anyOf", "enum", "const", "$ref"} & made.keys():
        said = {name: made.pop(name) for name in _SAID if name in made}
        types: list[str] = made.pop("type")
        return {**said, "anyOf": [_of_type(one, made) for one in types]}
    return made


def _of_type(one: str, keywords: Mapping[str, Any]) -> dict[str, Any]:
    """What is written inside of a part goes to one of its types alone: it does not grow with their number."""
    return {"type": one, **{name: value for name, value in keywords.items() if _OWNER.get(name, one) == one}}


def is_strict(schema: Mapping[str, Any]) -> bool:
    """Whether OpenAI can promise a match of a closed schema: it takes no optional properties, and not every keyword."""
    properties = schema.get("properties", {})
    parts = [*properties.values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", ())]
    if "items" in schema:
        parts.append(schema["items"])
    whole = schema.keys() <= _STRICT and set(schema.get("required", ())) == properties.keys()
    return whole and all(map(is_strict, parts))


def _types(schema: Mapping[str, Any]) -> list[str]:
    named = schema.get("type", [])
    return [named] if isinstance(named, str) else named
