"""The JSON Schemas that an answer can be made to match: which are taken, and whether a text matches one.

Taken is the part of JSON Schema 2020-12 that both providers can be asked for natively. References go to `$defs` and not
round in circles, and patterns are matched in linear time: an answer is soon checked, whatever a tenant asks for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import jsonschema_rs
import orjson

DIALECT = "https://json-schema.org/draft/2020-12/schema"
LARGEST_BYTES = 16 * 1024
DEEPEST = 10
MOST_PARTS = 500
_REFERENCE = "#/$defs/"
FORMATS = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"}
)  # fmt: skip
KEYWORDS = frozenset(
    {
        "$defs", "$ref", "$schema", "additionalProperties", "anyOf", "const", "default", "description", "enum",
        "examples", "exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maxLength", "maximum",
        "minItems", "minLength", "minimum", "multipleOf", "pattern", "properties", "required", "title", "type",
    }
)  # fmt: skip
_ONLY_AT_THE_TOP = frozenset({"$defs", "$schema"})
_SAY_WHAT = frozenset({"$ref", "anyOf", "const", "enum", "type"})
_NO_PATTERN = "it has no look-around, no back-reference, and no huge repetition"
_TOLD = 5
_LONGEST_REASON = 300

Schema = Mapping[str, Any]


class SchemaError(ValueError):
    """The schema cannot be asked for; `path` leads to the part that is wrong."""

    def __init__(self, path: tuple[str, ...], reason: str) -> None:
        super().__init__(reason)
        self.path = path
        self.reason = reason


class AnswerForm:
    """What an answer is to match. Raises `SchemaError` for a schema that is none of ours."""

    def __init__(self, schema: Schema) -> None:
        _check(schema)
        self.schema = schema
        try:
            self._validator = jsonschema_rs.Draft202012Validator(
                dict(schema), validate_formats=True, pattern_options=jsonschema_rs.RegexOptions()
            )
        except jsonschema_rs.ValidationError as error:
            path = tuple(str(part) for part in error.instance_path)
            raise SchemaError(path, f"{_short(error.message)} that is matched in linear time: {_NO_PATTERN}") from error

    def problem(self, text: str) -> str | None:
        """What is wrong with an answer, for its model and for people; None: it matches."""
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            return f"it is not JSON alone: {error}"
        found = islice(self._validator.iter_errors(value), _TOLD)
        return "; ".join(_told(error) for error in found) or None


def _told(error: jsonschema_rs.ValidationError) -> str:
    where = "/".join(str(part) for part in error.instance_path)
    return f"at /{where}: {_short(error.message)}"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_REASON else f"{text[:_LONGEST_REASON]} …"


def _check(schema: Schema) -> None:
    try:
        written = orjson.dumps(schema)
    except TypeError as error:
        raise SchemaError((), f"has a value that cannot be passed on: {error}") from error
    if len(written) > LARGEST_BYTES:
        raise SchemaError((), f"has {len(written)} bytes: a schema has at most {LARGEST_BYTES}")
    if b"\\u0000" in written:
        raise SchemaError((), "must not contain the character U+0000")
    if str(schema.get("$schema", DIALECT)).rstrip("#") != DIALECT:
        raise SchemaError(("$schema",), f"only {DIALECT} is known: name that, or leave it out")
    try:
        jsonschema_rs.meta.validate(dict(schema))
    except jsonschema_rs.ValidationError as error:
        path = tuple(str(part) for part in error.instance_path)
        raise SchemaError(path, f"is not JSON Schema: {_short(error.message)}") from error
    if schema.get("type") != "object":
        raise SchemaError(("type",), 'the answer is one object: its schema begins with {"type": "object", …}')
    _Measure(schema).whole()


def _inside(part: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(part, Mapping):
        return
    for name, inner in part.get("properties", {}).items():
        yield ("properties", name), inner
    for number, inner in enumerate(part.get("anyOf", ())):
        yield ("anyOf", str(number)), inner
    if "items" in part:
        yield ("items",), part["items"]


def _check_part(path: tuple[str, ...], part: Any) -> None:
    top = not path
    if not isinstance(part, Mapping) or not _SAY_WHAT & part.keys():
        raise SchemaError(path, "does not say what it is: give it a type, an enum, a const, an anyOf or a $ref")
    for keyword in part:
        if keyword not in KEYWORDS or (keyword in _ONLY_AT_THE_TOP and not top):
            where = "stands at the top only" if keyword in KEYWORDS else "is not a keyword that models can be held to"
            raise SchemaError((*path, keyword), f"{where}; there are: {', '.join(sorted(KEYWORDS))}")
    if part.get("additionalProperties", False) is not False:
        raise SchemaError((*path, "additionalProperties"), "an object names its properties: false, or leave it out")
    if "object" in _types(part) and not part.get("properties"):
        raise SchemaError((*path, "properties"), "an object names its properties: models can be held to nothing else")
    if part.get("format", "date") not in FORMATS:
        raise SchemaError((*path, "format"), f"there are: {', '.join(sorted(FORMATS))}")
    literals = [*part.get("enum", ()), *([part["const"]] if "const" in part else ())]
    if part.get("enum") == [] or not all(isinstance(value, str | int | float | None) for value in literals):
        raise SchemaError(path, "an enum or const is of texts, numbers, booleans or null, and an enum has one at least")


def _types(part: Schema) -> list[str]:
    named = part.get("type", [])
    return [named] if isinstance(named, str) else named


class _Measure:
    """How large a schema is once its references are followed, which is what checking an answer costs."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._defined: dict[str, tuple[int, int]] = {}
        self._open: list[str] = []

    def whole(self) -> None:
        """Raises `SchemaError` where it is too large or too deep."""
        for name in self._schema.get("$defs", {}):
            self._referred(("$defs", name), name)
        parts, depth = self._of((), self._schema)
        if parts > MOST_PARTS:
            raise SchemaError((), f"has {parts} parts, references followed: a schema has at most {MOST_PARTS}")
        if depth > DEEPEST:
            raise SchemaError((), f"is {depth} levels deep, references followed: a schema has at most {DEEPEST}")

    def _of(self, path: tuple[str, ...], part: Any) -> tuple[int, int]:
        _check_part(path, part)
        parts, depth = 1, 0
        inner = [self._of((*path, *step), one) for step, one in _inside(part)]
        if "$ref" in part:
            name = part["$ref"].removeprefix(_REFERENCE).replace("~1", "/").replace("~0", "~")
            if not part["$ref"].startswith(_REFERENCE) or name not in self._schema.get("$defs", {}):
                raise SchemaError((*path, "$ref"), f"leads nowhere: it is {_REFERENCE}<name>, of something in $defs")
            inner.append(self._referred((*path, "$ref"), name))
        for more, deeper in inner:
            parts, depth = parts + more, max(depth, deeper)
        return parts, depth + 1

    def _referred(self, path: tuple[str, ...], name: str) -> tuple[int, int]:
        if name in self._open:
            raise SchemaError(path, "leads back to where it is: a schema does not contain itself")
        if name not in self._defined:
            self._open.append(name)
            self._defined[name] = self._of(("$defs", name), self._schema["$defs"][name])
            self._open.pop()
        return self._defined[name]
