"""Which schemas are taken, what is wrong with the others, and what of an answer does not match."""

from __future__ import annotations

from typing import Any

import pytest

from common.answer_schema import LARGEST_BYTES, AnswerForm, SchemaError

TEXT = {"type": "string"}


def of(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def nested(levels: int) -> dict[str, Any]:
    part: dict[str, Any] = TEXT
    for _ in range(levels):
        part = {"type": "array", "items": part}
    return of(a=part)


def doubling(times: int) -> dict[str, Any]:
    """Short as it is written, and huge as it is followed."""
    parts = {f"x{n}": {"anyOf": [{"$ref": f"#/$defs/x{n + 1}"}] * 2} for n in range(times)}
    return {**of(a={"$ref": "#/$defs/x0"}), "$defs": {**parts, f"x{times}": TEXT}}


@pytest.mark.parametrize(
    "schema",
    [
        of(a=TEXT),
        {**of(a={"$ref": "#/$defs/a~1b"}), "$defs": {"a/b": TEXT}},
        {**of(a=TEXT), "$schema": "https://json-schema.org/draft/2020-12/schema", "additionalProperties": False},
        of(a={"type": ["string", "null"], "pattern": "^[a-z]+$", "format": "date"}, b={"enum": ["x", 1, None]}),
        of(type={"type": "integer", "minimum": 1}, properties=of(required={"const": True})),
        nested(8),
    ],
)
def test_taken(schema: dict[str, Any]) -> None:
    assert AnswerForm(schema).schema == schema


@pytest.mark.parametrize(
    ("schema", "path", "reason"),
    [
        ({}, "type", "the answer is one object"),
        ({"type": "array", "items": TEXT}, "type", "the answer is one object"),
        ({"type": "object"}, "properties", "names its properties"),
        (of(a=of()), "properties.a.properties", "names its properties"),
        ({"type": "object", "properties": 5}, "properties", "is not JSON Schema"),
        (of(a={"type": "strng"}), "properties.a.type", "is not JSON Schema"),
        (of(a={"type": "string", "minLength": -1}), "properties.a.minLength", "is not JSON Schema"),
        (of(a={}), "properties.a", "does not say what it is"),
        (of(a=True), "properties.a", "does not say what it is"),
        (of(a={"type": "string", "require": 1}), "properties.a.require", "is not a keyword"),
        (of(a={"type": "string", "$schema": "x"}), "properties.a.$schema", "stands at the top only"),
        (of(a={"type": "string", "not": {}}), "properties.a.not", "is not a keyword"),
        (of(a={**of(x=TEXT), "additionalProperties": TEXT}), "properties.a.additionalProperties", "names its"),
        (of(a={"type": "string", "format": "phone"}), "properties.a.format", "there are: date"),
        (of(a={"type": "string", "pattern": "(?=a)"}), "properties.a.pattern", "linear time"),
        (of(a={"type": "string", "pattern": "(a{1000}){1000}"}), "properties.a.pattern", "linear time"),
        (of(a={"enum": []}), "properties.a", "one at least"),
        (of(a={"const": {}}), "properties.a", "texts, numbers"),
        (of(a={"$ref": "#/$defs/gone"}), "properties.a.$ref", "leads nowhere"),
        (of(a={"$ref": "https://example.com/x"}), "properties.a.$ref", "leads nowhere"),
        ({**of(a=TEXT), "$defs": {"x": of(y={"$ref": "#/$defs/x"})}}, "$defs.x.properties.y.$ref", "contain itself"),
        ({**of(a=TEXT), "$defs": {"unused": {"not": {}}}}, "$defs.unused", "does not say what it is"),
        (nested(20), "", "22 levels deep"),
        (doubling(9), "", "parts, references followed"),
        (of(a={"type": "string", "description": "x" * LARGEST_BYTES}), "", "bytes: a schema has at most"),
        (of(a={"type": "string", "description": "\0"}), "", "U+0000"),
        ({**of(a=TEXT), "$schema": "http://json-schema.org/draft-07/schema#"}, "$schema", "draft/2020-12"),
        (of(a={"type": "integer", "minimum": 2**70}), "", "cannot be passed on"),
        ({**of(a=TEXT), "$schema": 5}, "$schema", "draft/2020-12"),
    ],
)
def test_refused(schema: dict[str, Any], path: str, reason: str) -> None:
    with pytest.raises(SchemaError) as caught:
        AnswerForm(schema)
    assert (".".join(caught.value.path), reason in caught.value.reason) == (path, True), caught.value.reason


FORM = AnswerForm(
    {**of(n={"type": "integer", "minimum": 3}, day={"type": "string", "format": "date"}), "required": ["n"]}
)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"n": 3}', None),
        ('  {"n": 3, "more": 1}\n', None),
        ('{"n": 2}', "at /n: 2 is less than the minimum of 3"),
        ('{"n": 3, "day": "2026-13-01"}', 'at /day: "2026-13-01" is not a "date"'),
        ("{}", 'at /: "n" is a required property'),
        ("[]", 'at /: [] is not of type "object"'),
        ("", "it is not JSON alone"),
        ('```json\n{"n": 3}\n```', "it is not JSON alone"),
        ('{"n": 3', "it is not JSON alone"),
        ('{"n": NaN}', "it is not JSON alone"),
    ],
)
def test_an_answer(text: str, problem: str | None) -> None:
    found = FORM.problem(text)
    assert found == problem if problem is None else found is not None and found.startswith(problem)


def test_every_problem_is_told_but_not_endlessly() -> None:
    assert (
        FORM.problem('{"n": 1, "day": "x"}') == 'at /n: 1 is less than the minimum of 3; at /day: "x" is not a "date"'
    )
    form = AnswerForm(of(a={"type": "array", "items": {"type": "integer"}}))
    assert len(form.problem('{"a": [' + ",".join(['"' + "x" * 9_000 + '"'] * 50) + "]}") or "") < 2_000


def test_a_pattern_that_others_would_try_for_ever_is_soon_done() -> None:
    form = AnswerForm(of(a={"type": "string", "pattern": "^(a+)+$"}))
    assert form.problem('{"a": "' + "a" * 50_000 + '!"}') is not None
