"""Every error that a request can end in, mapped to its problem: ours, the framework's, and what nobody foresaw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from common.errors import LaneFull, Unavailable
from gateway import problems
from gateway.problems import Problem, render

_log = structlog.get_logger(__name__)
_RETRY_SECONDS = "2"
_PLACES = ("body", "query", "path", "header", "text", "messages")
_BY_STATUS = {kind.status: kind for kind in reversed(problems.KINDS)}


def install(app: FastAPI) -> None:
    """Answer every error of the application with a problem document."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(Unavailable, _unavailable)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(Exception, _unforeseen)


def invalid(errors: Iterable[Mapping[str, Any]]) -> Problem:
    """The problem for pydantic's errors: a pointer and a reason for each field, at most 20 of them."""
    details = [_field(error) for error in list(errors)[:20]]
    first = details[0]
    return problems.INVALID.problem(f"{first['field'] or 'body'}: {first['reason']}", errors=details)


def invalid_field(field: str, reason: str) -> Problem:
    """The problem for one field that is wrong in a way that only we can know."""
    return problems.INVALID.problem(
        f"{field}: {reason}", errors=[{"field": field, "pointer": f"#/{field}", "reason": reason}]
    )


def _field(error: Mapping[str, Any]) -> dict[str, str]:
    parts = [str(part) for part in error["loc"] if part not in _PLACES]
    reason = str(error["msg"]).removeprefix("Value error, ")
    return {"field": ".".join(parts), "pointer": "#/" + "/".join(parts), "reason": reason}


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 - for the type checker; registered for it above
    return render(error, request.url.path)


async def _unavailable(request: Request, error: Exception) -> Response:
    _log.warning("request.unavailable", path=request.url.path, error=repr(error))
    kind = problems.LANE_FULL if isinstance(error, LaneFull) else problems.UNAVAILABLE
    # Which server is away is for our log, not for the client.
    detail = "The lane takes no more tasks now." if isinstance(error, LaneFull) else "A server did not answer in time."
    safe = "Nothing was accepted; a retry with the same Idempotency-Key is safe." if request.method == "POST" else ""
    return render(kind.problem(f"{detail} {safe}".strip(), headers={"Retry-After": _RETRY_SECONDS}), request.url.path)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    if any(one["type"] == "json_invalid" for one in error.errors()):
        return render(problems.INVALID.problem("The body is not JSON."), request.url.path)
    return render(invalid(error.errors()), request.url.path)


async def _framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    kind = _BY_STATUS.get(error.status_code, problems.INVALID if error.status_code < 500 else problems.INTERNAL)
    return render(kind.problem(str(error.detail), headers=error.headers), request.url.path)


async def _unforeseen(request: Request, error: Exception) -> Response:
    # The server logs the traceback, as the error goes on to it after this answer.
    _log.error("request.failed", path=request.url.path, error=repr(error))
    return render(problems.INTERNAL.problem(problems.INTERNAL.detail), request.url.path)
