"""What is refused at the door, with the field and the reason; what is let in."""

from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from common.catalogue import load_catalogue
from gateway.failures import invalid
from gateway.problems import Problem
from gateway.schemas import EXAMPLES, TASK_REQUEST, TaskRequest, check_catalogue

_CATALOGUE = load_catalogue(Path(__file__).parents[3] / "deploy" / "catalogue")


def _read(document: Any) -> TaskRequest:
    return _parse(json.dumps(document).encode())


def _parse(body: bytes) -> TaskRequest:
    try:
        request = TASK_REQUEST.validate_json(body)
    except ValidationError as error:
        raise invalid(error.errors(include_context=False)) from error
    check_catalogue(request, _CATALOGUE)
    return request


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_the_documented_examples_are_accepted(example: dict[str, Any]) -> None:
    assert _read(example["value"]).messages[-1].role == "user"


def test_money_is_exact_however_it_is_written() -> None:
    assert _parse(b'{"input":"x","max_cost_usd":0.1}').max_cost_usd == Decimal("0.1")
    assert _read({"input": "x", "max_cost_usd": "0.0000000001"}).max_cost_usd == Decimal("1e-10")


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"input": ""}, "input", "empty"),
        ({"input": " \n\t "}, "input", "empty"),
        ({"input": []}, "input", "end with a message of the user"),
        ({"input": [{"role": "assistant", "content": "x"}]}, "input", "end with a message of the user"),
        ({"input": [{"role": "user", "content": " "}]}, "input", "empty"),
        ({"input": [{"role": "user", "content": "x", "name": "y"}]}, "input.0.name", "not permitted"),
        ({"input": [{"role": "system", "content": "x"}]}, "input.0.role", "'user' or 'assistant'"),
        ({"input": "x" * 100_001}, "input", "100000 characters"),
        ({"input": "a\0b"}, "input", "U+0000"),
        ({"input": [{"role": "user", "content": "a\0b"}]}, "input", "U+0000"),
        ({"input": 5}, "input", "array"),
        ({"input": None}, "input", "array"),
        ({"unknown": 1}, "unknown", "not permitted"),
        ({"priority": 10}, "priority", "less than or equal to 9"),
        ({"priority": -1}, "priority", "greater than or equal to 0"),
        ({"priority": "5"}, "priority", "valid integer"),
        ({"priority": True}, "priority", "valid integer"),
        ({"priority": 5.5}, "priority", "integer"),
        ({"agent": "nobody"}, "agent", "no agent 'nobody'"),
        ({"agent": None}, "agent", "valid string"),
        ({"model": "gpt-9"}, "model", "no model 'gpt-9'"),
        ({"model": "auto", "max_output_tokens": 128_001}, "max_output_tokens", "gpt-5.4 gives at most 128000"),
        ({"max_output_tokens": 0}, "max_output_tokens", "greater than or equal to 1"),
        ({"max_output_tokens": 64_001}, "max_output_tokens", "at most 64000"),
        ({"max_steps": 101}, "max_steps", "less than or equal to 100"),
        ({"max_steps": 5, "agent": "writer"}, "max_steps", "writer takes at most 4 steps"),
        ({"max_cost_usd": 0}, "max_cost_usd", "greater than 0"),
        ({"max_cost_usd": "1e-11"}, "max_cost_usd", "decimal places"),
        ({"temperature": 2.1}, "temperature", "less than or equal to 2"),
        ({"deadline_seconds": 0}, "deadline_seconds", "greater than 0"),
        ({"not_before": "2026-07-01T09:00:00"}, "not_before", "RFC 3339"),
        ({"not_before": "2026-07-01"}, "not_before", "RFC 3339"),
        ({"not_before": "1782896400"}, "not_before", "RFC 3339"),
        ({"not_before": 1782896400}, "not_before", "RFC 3339"),
        ({"not_before": "2026-02-30T09:00:00Z"}, "not_before", "out of range"),
        ({"concurrency_key": ""}, "concurrency_key", "at least 1"),
        ({"concurrency_key": "x" * 201}, "concurrency_key", "at most 200"),
        ({"concurrency_key": "a\nb"}, "concurrency_key", "printable"),
        ({"concurrency_key": "k", "concurrency_limit": 0}, "concurrency_limit", "greater than or equal to 1"),
        ({"concurrency_key": "k", "concurrency_limit": 1001}, "concurrency_limit", "less than or equal to 1000"),
        ({"concurrency_limit": 2}, "concurrency_limit", "without a concurrency_key"),
        ({"user_id": ""}, "user_id", "at least 1"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "at most 16"),
        ({"metadata": {"a": 1}}, "metadata.a", "valid string"),
        ({"metadata": {"a": "\0"}}, "metadata.a", "U+0000"),
        ({"conversation_id": "c"}, "conversation_id", "valid UUID"),
        ({"on_budget_exhausted": "beg"}, "on_budget_exhausted", "'fail', 'wait' or 'park'"),
        ({"response_schema": 5}, "response_schema", "an object"),
        ({"response_schema": {"type": "array"}}, "response_schema.type", "is one object"),
        (
            {"response_schema": {"type": "object", "properties": {"a/b": {"type": "strng"}}}},
            "response_schema.properties.a/b.type",
            "is not JSON Schema",
        ),
        ({"on_busy": "reject"}, "on_busy", "without a conversation_id"),
    ],
)
def test_what_is_wrong_is_told_with_its_field_and_the_reason(fields: dict[str, Any], field: str, reason: str) -> None:
    with pytest.raises(Problem) as caught:
        _read({"input": "x"} | fields)
    problem = caught.value
    assert problem.kind.status == 422
    assert problem.errors is not None
    assert problem.errors[0]["field"] == field
    assert reason in problem.errors[0]["reason"]


def test_a_part_of_a_schema_is_pointed_at() -> None:
    with pytest.raises(Problem) as caught:
        _read({"input": "x", "response_schema": {"type": "object", "properties": {"a/b": {}}}})
    assert caught.value.errors is not None
    assert caught.value.errors[0]["pointer"] == "#/response_schema/properties/a~1b"


def test_the_model_may_be_left_to_the_rules_where_there_are_some() -> None:
    request = _read({"input": "x", "model": "auto", "max_output_tokens": 100_000})
    with pytest.raises(Problem) as caught:
        check_catalogue(request, _CATALOGUE.model_copy(update={"auto": ()}))
    assert caught.value.errors is not None
    (error,) = caught.value.errors
    assert (error["field"], error["reason"]) == ("model", "there are no rules to pick a model by: name one")


@pytest.mark.parametrize("number", [b"NaN", b"Infinity", b"-Infinity", b"1e999"])
@pytest.mark.parametrize("field", ["temperature", "deadline_seconds", "max_cost_usd"])
def test_no_number_is_infinite_or_none_at_all(field: str, number: bytes) -> None:
    with pytest.raises(Problem):
        _parse(b'{"input":"x","%b":%b}' % (field.encode(), number))


def test_half_a_character_is_refused() -> None:
    with pytest.raises(Problem):
        _parse(b'{"input":"\\ud800"}')


_DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("input"), inner),
)


@given(body=st.binary(max_size=200) | _DOCUMENTS.map(lambda document: json.dumps(document).encode()))
def test_whatever_is_sent_is_read_or_refused(body: bytes) -> None:
    with suppress(Problem):
        _parse(body)
