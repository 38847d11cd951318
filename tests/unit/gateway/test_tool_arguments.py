"""Arguments that a person has changed, held against schemas that may be anybody's."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.tool_arguments import misfits

LETTER: dict[str, Any] = {
    "type": "object",
    "properties": {"to": {"type": "string"}, "copies": {"type": "integer", "minimum": 1}},
    "required": ["to"],
    "additionalProperties": False,
}


def test_what_fits_fits() -> None:
    assert misfits({"to": "ann", "copies": 2}, LETTER) == []


def test_each_misfit_has_its_place_and_its_reason() -> None:
    found = {".".join(path): reason for path, reason in misfits({"to": "ann", "copies": 0, "stamp": 1}, LETTER)}
    assert found.keys() == {"", "copies"}
    assert "'stamp' was unexpected" in found[""]
    assert "minimum" in found["copies"]


def test_no_more_than_twenty_are_told() -> None:
    many = {"type": "object", "additionalProperties": {"type": "string"}}
    assert len(misfits({str(n): n for n in range(100)}, many)) == 20


SLOW = "^(a+)+$"


@pytest.mark.parametrize(
    "hostile",
    [
        {"properties": {"to": {"type": "string", "pattern": SLOW}}},
        {"patternProperties": {SLOW: {}}},
        {"patternProperties": {SLOW: {}}, "additionalProperties": False},
        {"patternProperties": {SLOW: {}}, "unevaluatedProperties": False},
        {"propertyNames": {"pattern": SLOW}},
        {"properties": {"to": {"$schema": "https://json-schema.org/draft/2020-12/schema", "pattern": SLOW}}},
    ],
    ids=lambda schema: " ".join(schema),
)
def test_a_pattern_keeps_nobody_busy(hostile: dict[str, Any]) -> None:
    slow = "a" * 50 + "!"
    assert misfits({"to": slow, slow: 1}, {"type": "object", **hostile}) == []


def _doubling(levels: int) -> dict[str, Any]:
    """Each part is to be checked twice by the one before."""
    parts = {str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(levels)}
    return {"$defs": {**parts, str(levels): {"type": "object"}}, "$ref": "#/$defs/0"}


@pytest.mark.parametrize(
    ("arguments", "hostile"),
    [
        ({"to": "ann"}, _doubling(40)),
        ({"to": "x" * 100_000}, {"anyOf": [{"properties": {"to": {"type": "integer"}}}] * 400}),
        ({"to": [0] * 60_000}, {"properties": {"to": {"items": {"enum": list(range(3_000, -1, -1))}}}}),
        ({"to": [0] * 60_000}, {"properties": {"to": {"allOf": [{"items": {}}] * 1_000}}}),
    ],
    ids=["references that double", "long errors", "many words", "many looks at nothing"],
)
def test_a_check_without_end_is_given_up(arguments: dict[str, Any], hostile: dict[str, Any]) -> None:
    ((path, reason),) = misfits(arguments, hostile)
    assert path == []
    assert "takes too long" in reason


def test_whether_a_long_list_has_all_different_things_is_not_asked() -> None:
    mixed = [{"n": n} if n % 2 else n for n in range(20_000)]
    assert misfits({"to": mixed}, {"properties": {"to": {"uniqueItems": True}}}) == []


def test_what_is_long_and_honest_is_checked() -> None:
    item = {"type": "object", "properties": {"name": {"type": "string"}, "count": {"type": "integer"}}}
    honest = {"type": "object", "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/item"}}}}
    many = [{"name": "x" * 40, "count": n} for n in range(1_000)]
    assert misfits({"items": many}, {**honest, "$defs": {"item": item}}) == []
    assert misfits({"to": "x" * 120_000, "copies": 2}, LETTER) == []


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"$ref": "#"},
        {"type": "no such type"},
        {"properties": {"to": {"minLength": "many"}}},
        {"properties": 4},
    ],
)
def test_a_schema_that_cannot_be_used_is_said_to_be_and_nothing_is_fetched(schema: dict[str, Any]) -> None:
    ((path, reason),) = misfits({"to": "ann"}, schema)
    assert path == []
    assert "schema cannot be used" in reason
