"""What `/docs` says beyond the signatures: problems with examples, headers, bodies that are read raw."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from gateway.approval_documents import EXAMPLES as APPROVALS
from gateway.approval_documents import ApprovalRequest
from gateway.batch_documents import BatchSubmitted
from gateway.batch_schemas import MOST_TASKS
from gateway.documents import ProblemDocument, Submitted
from gateway.mcp_schemas import EXAMPLES as MCP_SERVERS
from gateway.mcp_schemas import McpServerRequest
from gateway.problems import KINDS, MEDIA_TYPE, Kind
from gateway.schedule_schemas import CHANGES, ScheduleRequest
from gateway.schedule_schemas import EXAMPLES as SCHEDULES
from gateway.schemas import EXAMPLES, TaskRequest
from gateway.upload_schemas import EXAMPLES as UPLOADS
from gateway.upload_schemas import Upload

_TASK_ID = {"name": "task_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}


_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "1 to 200 printable ASCII characters",
    "schema": {"type": "string", "minLength": 1, "maxLength": 200},
}


def _header(description: str, kind: str = "string") -> dict[str, Any]:
    return {"description": description, "required": True, "schema": {"type": kind}}


_RETRY = {"Retry-After": _header("seconds", "integer")}
_HEADERS_OF_PROBLEMS = {
    401: {"WWW-Authenticate": _header("`Bearer`, with the realm")},
    429: _RETRY,
    503: _RETRY,
}
_RECEIPT_HEADERS = {
    "Location": _header("the task"),
    "RateLimit-Limit": _header("requests per minute", "integer"),
    "RateLimit-Remaining": _header("what is left of them", "integer"),
    "RateLimit-Reset": _header("seconds until all are left", "integer"),
}
CHAT_HEADERS = _RECEIPT_HEADERS | {"X-Laneway-Task-Id": _header("the task's id")}
_ANYWHERE = ("unauthenticated", "internal", "unavailable")


def problem_responses(*names: str) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that can end in these kinds of problem, and in those that every route can."""
    responses: dict[int | str, dict[str, Any]] = {}
    for kind in KINDS:
        if kind.name in (*names, *_ANYWHERE):
            response = responses.setdefault(kind.status, _problem_response(kind))
            response["content"][MEDIA_TYPE]["examples"][kind.name] = {"value": _example(kind)}
    return responses


def _problem_response(kind: Kind) -> dict[str, Any]:
    headers = _HEADERS_OF_PROBLEMS.get(kind.status, {})
    content = {MEDIA_TYPE: {"schema": _inlined(ProblemDocument), "examples": {}}}
    return {"description": kind.title, "headers": headers, "content": content}


def receipt_responses() -> dict[int | str, dict[str, Any]]:
    """The `responses` to a submission and to its repetition."""
    again = {"model": Submitted, "description": "The same task as before", "headers": _RECEIPT_HEADERS}
    return {202: again | {"description": "The task is safe"}, 200: again}


def stream_response(headers: dict[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that streams."""
    content = {"text/event-stream": {"schema": {"type": "string"}}}
    return {200: {"content": content, "description": "Events as they come", "headers": headers or {}}}


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
    key = {**_KEY, "description": f"{_KEY['description']}; the same key and body is the same task, for a day or more"}
    cache = {
        "name": "Cache-Control",
        "in": "header",
        "required": False,
        "description": "`no-store`: the answer is neither taken from the response cache nor kept in it",
        "schema": {"type": "string", "examples": ["no-store"]},
    }
    return {
        "parameters": [key, cache],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": _inlined(TaskRequest), "examples": EXAMPLES}},
        },
    }


_BATCH_ID = {"name": "batch_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}


def batch_body() -> dict[str, Any]:
    """The `openapi_extra` of the route that reads a batch by itself."""
    task = _inlined(TaskRequest)
    defaults = {**task, "required": [], "description": "fields for all tasks that do not have them"}
    schema = {
        "type": "object",
        "required": ["tasks"],
        "additionalProperties": False,
        "properties": {
            "tasks": {"type": "array", "minItems": 1, "maxItems": MOST_TASKS, "items": task},
            "defaults": defaults,
        },
    }
    extra = task_body()
    extra["requestBody"]["content"]["application/json"] = {"schema": schema, "examples": _BATCHES}
    return extra


_BATCHES = {
    "questions": {
        "summary": "Three questions of one order",
        "value": {
            "defaults": {"agent": "default", "metadata": {"order": "4711"}},
            "tasks": [{"input": "What is AI?"}, {"input": "What is a lane?"}, {"input": "Why?", "priority": 9}],
        },
    },
}


def batch_receipt_responses() -> dict[int | str, dict[str, Any]]:
    """The `responses` to a batch and to its repetition."""
    headers = _RECEIPT_HEADERS | {"Location": _header("the batch")}
    said = {"model": BatchSubmitted, "headers": headers}
    return {
        202: said | {"description": "Every task is safe"},
        200: said | {"description": "The same batch as before, and every task is safe"},
        207: said | {"description": "Some tasks are safe: `tasks` says which", "headers": headers | _RETRY},
    }


def batch_parameters() -> dict[str, Any]:
    """The `openapi_extra` of a route that reads a batch's id by itself."""
    return {"parameters": [_BATCH_ID]}


def conversation_parameters() -> dict[str, Any]:
    """The `openapi_extra` of a route that reads a conversation's id by itself."""
    return {"parameters": [{**_TASK_ID, "name": "conversation_id"}]}


def document_parameters() -> dict[str, Any]:
    """The `openapi_extra` of a route that reads the ids of a conversation and of a document by itself."""
    return {"parameters": [{**_TASK_ID, "name": name} for name in ("conversation_id", "document_id")]}


def upload_body() -> dict[str, Any]:
    """The `openapi_extra` of the route that reads a document by itself."""
    content = {"application/json": {"schema": _inlined(Upload), "examples": UPLOADS}}
    key = {**_KEY, "description": f"{_KEY['description']}: the same key and body is the same document"}
    parameters = [*conversation_parameters()["parameters"], key]
    return {"parameters": parameters, "requestBody": {"required": True, "content": content}}


def mcp_server_parameters() -> dict[str, Any]:
    """The `openapi_extra` of a route that reads the name of an MCP server by itself."""
    schema = {"type": "string", "pattern": "^[a-z][a-z0-9-]{0,19}$", "examples": ["crm"]}
    return {"parameters": [{"name": "name", "in": "path", "required": True, "schema": schema}]}


def mcp_server_body() -> dict[str, Any]:
    """The `openapi_extra` of the route that reads an MCP server by itself."""
    content = {"application/json": {"schema": _inlined(McpServerRequest), "examples": MCP_SERVERS}}
    return mcp_server_parameters() | {"requestBody": {"required": True, "content": content}}


def batch_stream_parameters() -> dict[str, Any]:
    """The `openapi_extra` of the route that streams a batch."""
    resume = "the id of the last event that was seen: it says what its client has been told"
    schema = {"type": "string", "pattern": "^[A-Za-z0-9_-]*$", "maxLength": 400}
    return {
        "parameters": [
            _BATCH_ID,
            {"name": "Last-Event-ID", "in": "header", "description": resume, "schema": schema},
            {"name": "last_event_id", "in": "query", "description": resume, "schema": schema},
        ]
    }


_SCHEDULE_ID = {"name": "schedule_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}


def schedule_parameters() -> dict[str, Any]:
    """The `openapi_extra` of a route that reads a schedule's id by itself."""
    return {"parameters": [_SCHEDULE_ID]}


def schedule_body(*, change: bool = False) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads a schedule by itself; of a change every field is optional."""
    schema, examples = _inlined(ScheduleRequest), SCHEDULES
    if change:
        schema, examples = schema | {"required": []}, CHANGES
    content = {"application/json": {"schema": schema, "examples": examples}}
    body = {"requestBody": {"required": True, "content": content}}
    return schedule_parameters() | body if change else body


def _inlined(model: type[BaseModel]) -> dict[str, Any]:
    """The model's schema without references: it stands in a document that has its own."""
    schema = model.model_json_schema()
    inlined: dict[str, Any] = _resolved(schema, schema.pop("$defs", {}))
    return inlined


def _resolved(node: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(node, dict):
        if "$ref" in node:
            return _resolved(definitions[node["$ref"].rpartition("/")[2]], definitions)
        return {name: _resolved(value, definitions) for name, value in node.items()}
    return [_resolved(item, definitions) for item in node] if isinstance(node, list) else node


def approval_body() -> dict[str, Any]:
    """The `openapi_extra` of the route that reads a decision by itself."""
    content = {"application/json": {"schema": _inlined(ApprovalRequest), "examples": APPROVALS}}
    return task_parameters() | {"requestBody": {"required": True, "content": content}}


def task_parameters() -> dict[str, Any]:
    """The `openapi_extra` of a route that reads a task's id by itself."""
    return {"parameters": [_TASK_ID]}


def stream_parameters() -> dict[str, Any]:
    """The `openapi_extra` of a route that streams a task by itself."""
    resume = "the id of the last event that was seen, `<fence>-<seq>`"
    schema = {"type": "string", "pattern": "^[0-9]+-[0-9]+$", "examples": ["1-5"]}
    return {
        "parameters": [
            _TASK_ID,
            {"name": "Last-Event-ID", "in": "header", "description": resume, "schema": schema},
            {"name": "last_event_id", "in": "query", "description": resume, "schema": schema},
        ]
    }
