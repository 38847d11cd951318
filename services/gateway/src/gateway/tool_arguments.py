"""Changed arguments of a tool call, held against the tool's schema.

The schema may be a stranger's, from an MCP server: nothing that it refers to is fetched, and its patterns, with which
it could keep a process busy for hours, are left to whoever runs the tool.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, UnknownType, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

_MOST_ERRORS = 20


def _left_out(*_: Any) -> Iterator[ValidationError]:
    return iter(())


_Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {"pattern": _left_out, "patternProperties": _left_out}
)


def misfits(arguments: dict[str, Any], schema: dict[str, Any]) -> list[tuple[list[str], str]]:
    """What is wrong with the arguments: the path to each value, and the reason; at most 20."""
    found: list[tuple[list[str], str]] = []
    try:
        for error in _Validator(schema, registry=Registry()).iter_errors(arguments):
            found.append(([str(part) for part in error.absolute_path], error.message[:300]))
            if len(found) == _MOST_ERRORS:
                break
    except (Unresolvable, SchemaError, UnknownType, RecursionError, AttributeError, TypeError, ValueError) as error:
        return [([], f"the tool's schema cannot be used to check them: {type(error).__name__}")]
    return found
