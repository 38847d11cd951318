"""Changed arguments of a tool call, held against the tool's schema.

The schema may be a stranger's, from an MCP server, made to keep a process busy for hours: nothing that it refers to is
fetched, a check has so much to read and no more, and what is not named here, patterns above all, is left to whoever
runs the tool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any, TypeAlias

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, UnknownType, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing.exceptions import Unresolvable

_MOST_ERRORS = 20
_CHECKED = frozenset(
    {
        "$ref", "additionalProperties", "allOf", "anyOf", "const", "enum", "exclusiveMaximum", "exclusiveMinimum",
        "items", "maxItems", "maxLength", "maxProperties", "maximum", "minItems", "minLength", "minProperties",
        "minimum", "multipleOf", "oneOf", "prefixItems", "properties", "required", "type",
    }
)  # fmt: skip
# In units of about thirty nanoseconds, in which a character is read: a quarter of a second.
_MOST_WORK = 8_000_000
_STEP = 250
_COMPARISON = 50
_EACH = frozenset({"additionalProperties", "items", "prefixItems"})

_Check: TypeAlias = Callable[[Any, Any, Any, Mapping[str, Any]], Iterator[ValidationError]]


class _TooMuchError(ValueError):
    """A check that has read enough."""


class _Work:
    """What one check has read: of each keyword what it says, and what it is held against, which its errors quote."""

    def __init__(self, arguments: dict[str, Any], schema: dict[str, Any]) -> None:
        self._left = _MOST_WORK
        self._schema = len(repr(schema))
        # By identity: what is held against a keyword is always a part of the arguments.
        self._sizes: dict[int, int] = {}
        self._measure(arguments)

    def do(self, keyword: str, value: object, instance: object) -> None:
        """Raises `_TooMuchError`."""
        self._left -= _STEP + self._said(keyword, value) + self._sizes.get(id(instance), 0)
        if keyword in _EACH:
            self._left -= _STEP * _length(instance)
        if self._left < 0:
            raise _TooMuchError

    def _said(self, keyword: str, value: object) -> int:
        if keyword == "$ref":
            return self._schema
        if keyword in ("const", "enum"):
            return len(repr(value)) + _COMPARISON * _length(value)
        return _STEP * _length(value)

    def _measure(self, part: object) -> int:
        size = len(part) if isinstance(part, str) else 1
        if isinstance(part, dict):
            size += sum(map(self._measure, part)) + sum(map(self._measure, part.values()))
        elif isinstance(part, list):
            size += sum(map(self._measure, part))
        self._sizes[id(part)] = size
        return size


_WORK: ContextVar[_Work] = ContextVar("work")


def _length(value: object) -> int:
    return len(value) if isinstance(value, list | dict) else 0


def _counted(keyword: str, check: _Check) -> _Check:
    def counted(validator: Any, value: Any, instance: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
        _WORK.get().do(keyword, value, instance)
        # Which properties are additional is a matter of patterns then.
        skipped = keyword == "additionalProperties" and "patternProperties" in schema
        return iter(()) if skipped else check(validator, value, instance, schema)

    return counted


def _left_out(*_: Any) -> Iterator[ValidationError]:
    return iter(())


_Validator = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator,
    {
        keyword: _counted(keyword, check) if keyword in _CHECKED else _left_out
        for keyword, check in Draft202012Validator.VALIDATORS.items()
    },
)


def _of_our_dialect(part: Any) -> Any:
    """The schema without what would have a part of it checked by another validator than ours."""
    if isinstance(part, dict):
        return {k: _of_our_dialect(v) for k, v in part.items() if k != "$schema" or not isinstance(v, str)}
    return [_of_our_dialect(inner) for inner in part] if isinstance(part, list) else part


def misfits(arguments: dict[str, Any], schema: dict[str, Any]) -> list[tuple[list[str], str]]:
    """What is wrong with the arguments: the path to each value, and the reason; at most 20."""
    found: list[tuple[list[str], str]] = []
    counting = _WORK.set(_Work(arguments, schema))
    try:
        checking = _Validator(_of_our_dialect(schema), registry=Registry())
        for error in checking.iter_errors(arguments):
            found.append(([str(part) for part in error.absolute_path], error.message[:300]))
            if len(found) == _MOST_ERRORS:
                break
    except _TooMuchError:
        return [([], "the tool's schema cannot be used to check them: it takes too long")]
    except (Unresolvable, SchemaError, UnknownType, RecursionError, AttributeError, TypeError, ValueError) as error:
        return [([], f"the tool's schema cannot be used to check them: {type(error).__name__}")]
    finally:
        _WORK.reset(counting)
    return found
