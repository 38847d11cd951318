"""What `/docs` says beyond the signatures: problems with examples, headers, bodies that are read raw."""

from __future__ import annotations

from typing import Any

from gateway.problems import KINDS, MEDIA_TYPE, Kind
from gateway.schemas import EXAMPLES, TaskRequest

_ANYWHERE = ("unauthenticated", "internal", "unavailable")


def problem_responses(*names: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can end in these kinds of problem, and in those that every route can."""
    responses: dict[int | str, dict[str, Any]] = {}
    for kind in KINDS:
        if kind.name in (*names, *_ANYWHERE):
            response = responses.setdefault(
                kind.status, {"description": kind.title, "content": {MEDIA_TYPE: {"examples": {}}}}
            )
            response["content"][MEDIA_TYPE]["examples"][kind.name] = {"value": _example(kind)}
    return responses


def _example(kind: Kind) -> dict[str, Any]:
    document: dict[str, Any] = {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": kind.detail,
        "instance": "/v1/tasks",
    }
    if kind.name == "invalid-request":
        reason = kind.detail.partition(": ")[2]
        document["errors"] = [{"field": "priority", "pointer": "#/priority", "reason": reason}]
    return document


def task_body() -> dict[str, Any]:
    """The `openapi_extra` of a route that reads a task request by itself."""
    schema = TaskRequest.model_json_schema()
    schema = _inlined(schema, schema.pop("$defs", {}))
    key = {
        "name": "Idempotency-Key",
        "in": "header",
        "required": False,
        "description": "1 to 200 printable ASCII characters; the same key and body is the same task, for a day or more",
        "schema": {"type": "string", "minLength": 1, "maxLength": 200},
    }
    return {
        "parameters": [key],
        "requestBody": {"required": True, "content": {"application/json": {"schema": schema, "examples": EXAMPLES}}},
    }


def _inlined(node: Any, definitions: dict[str, Any]) -> Any:
    """The schema with each reference replaced by what it names: it stands in a document that has its own."""
    if isinstance(node, dict):
        if "$ref" in node:
            return _inlined(definitions[node["$ref"].rpartition("/")[2]], definitions)
        return {name: _inlined(value, definitions) for name, value in node.items()}
    return [_inlined(item, definitions) for item in node] if isinstance(node, list) else node


def stream_parameters() -> dict[str, Any]:
    """The `openapi_extra` of a route that streams a task by itself."""
    resume = "the id of the last event that was seen, `<fence>-<seq>`"
    schema = {"type": "string", "pattern": "^[0-9]+-[0-9]+$", "examples": ["1-5"]}
    return {
        "parameters": [
            {"name": "task_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}},
            {"name": "Last-Event-ID", "in": "header", "description": resume, "schema": schema},
            {"name": "last_event_id", "in": "query", "description": resume, "schema": schema},
        ]
    }
