"""Reading what a client sent: headers and bodies, with the reason where they are not usable."""

from __future__ import annotations

from pydantic import ValidationError
from starlette.requests import Request

from gateway import problems
from gateway.failures import invalid, invalid_parameter
from gateway.schemas import TASK_REQUEST, TaskRequest

_KEY_LENGTH = 200


async def read_task(request: Request) -> TaskRequest:
    """The checked body of a submission. Raises `Problem`."""
    body = await json_body(request)
    try:
        return TASK_REQUEST.validate_json(body)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        if details[0]["type"] == "json_invalid":
            raise problems.INVALID.problem("The body is not JSON.") from error
        raise invalid(details) from error


async def json_body(request: Request) -> bytes:
    """The body of a request that says that it is JSON. Raises `Problem`."""
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise problems.UNSUPPORTED_MEDIA.problem(problems.UNSUPPORTED_MEDIA.detail)
    return await request.body()


def no_store(request: Request) -> bool:
    """Whether the client wants its answer neither from the response cache nor kept in it: `Cache-Control: no-store`."""
    asked = ",".join(request.headers.getlist("cache-control")).split(",")
    return "no-store" in (directive.strip().lower() for directive in asked)


def idempotency_key(request: Request) -> str | None:
    """The `Idempotency-Key`: 1 to 200 printable ASCII characters. Raises `Problem`."""
    key = request.headers.get("idempotency-key")
    if key is None:
        return None
    if not (1 <= len(key) <= _KEY_LENGTH and key.isascii() and key.isprintable()):
        raise invalid_parameter("Idempotency-Key", f"must be 1 to {_KEY_LENGTH} printable ASCII characters")
    return key
