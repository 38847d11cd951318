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


def test_a_pattern_keeps_nobody_busy() -> None:
    hostile = {"type": "object", "properties": {"to": {"type": "string", "pattern": "^(a+)+$"}}}
    assert misfits({"to": "a" * 50 + "!"}, hostile) == []


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
