"""Every error that a request can end in, mapped to its problem: ours, the framework's, and what nobody foresaw."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from common.errors import Unavailable
from gateway import problems
from gateway.problems import Problem, render

_log = structlog.get_logger(__name__)
_BY_STATUS = {kind.status: kind for kind in reversed(problems.KINDS)}


def install(app: FastAPI) -> None:
    """Answer every error of the application with a problem document."""
    app.add_exception_handler(Problem, _problem)
    app.add_exception_handler(Unavailable, _unavailable)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(Exception, _unforeseen)


def invalid(errors: Iterable[Mapping[str, Any]]) -> Problem:
    """The problem for pydantic's errors in a body: a pointer and a reason for each field, at most 20 of them."""
    return _listed([_field(parts, reason) for parts, reason in reasons(list(errors)[:20])])


def reasons(errors: Iterable[Mapping[str, Any]]) -> list[tuple[list[str], str]]:
    """Pydantic's errors in a body, as the path to each field and what is wrong with it."""
    return [(_parts(error["loc"]), _reason(error)) for error in errors]


def invalid_items(items: Sequence[tuple[int | None, Sequence[str], str]], total: str) -> Problem:
    """The problem for a body of many items: for each error the item's index, the path to the field, and the reason."""
    listed = [({} if index is None else {"index": index}) | _field(path, reason) for index, path, reason in items]
    return problems.INVALID.problem(total, errors=listed)


def invalid_field(field: str, reason: str) -> Problem:
    """The problem for one field of a body that is wrong in a way that only we can know."""
    return invalid_fields({field: reason})


def invalid_path(path: Sequence[str], reason: str) -> Problem:
    """The same for a part of a field; the path begins with the field."""
    return _listed([_field(path, reason)])


def invalid_fields(reasons: Mapping[str, str]) -> Problem:
    """The same for fields that are wrong together."""
    return _listed([_field([field], reason) for field, reason in reasons.items()])


def invalid_parameter(name: str, reason: str) -> Problem:
    """The problem for a header, or a parameter of the address: no pointer leads to it."""
    return _listed([{"field": name, "reason": reason}])


def _listed(details: list[dict[str, str]]) -> Problem:
    first = details[0]
    return problems.INVALID.problem(f"{first['field'] or 'body'}: {first['reason']}", errors=details)


def _of_request(error: Mapping[str, Any]) -> dict[str, str]:
    """One of the framework's errors, whose place begins with where the value was looked for."""
    where, *parts = error["loc"]
    if where == "body":
        return _field(_parts(parts), _reason(error))
    return {"field": ".".join(map(str, parts)), "reason": _reason(error)}


def _parts(location: Sequence[str | int]) -> list[str]:
    """Where the client finds it: without the names by which our schema tells one form of `input` from the other."""
    parts = [str(part) for part in location if part != "[key]"]
    return [parts[0], *parts[2:]] if parts[:1] == ["input"] else parts


def _field(parts: Sequence[str], reason: str) -> dict[str, str]:
    return {"field": ".".join(parts), "pointer": _pointer(parts), "reason": reason}


def _pointer(parts: Sequence[str]) -> str:
    """A JSON pointer as a URI fragment (RFC 6901); that of the whole document is `#`."""
    return "#" + "".join("/" + quote(part.replace("~", "~0").replace("/", "~1"), safe="~") for part in parts)


def _reason(error: Mapping[str, Any]) -> str:
    return str(error["msg"]).removeprefix("Value error, ")


async def _problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)  # noqa: S101 - for the type checker; registered for it above
    if error.kind.status == 503:
        _log_unavailable(request, error.__cause__)
    return render(error, request.url.path)


async def _unavailable(request: Request, error: Exception) -> Response:
    _log_unavailable(request, error)
    return render(problems.unavailable(""), request.url.path)


def _log_unavailable(request: Request, error: BaseException | None) -> None:
    # Which server is away is for our log, not for the client.
    _log.warning("request.unavailable", path=request.url.path, error=repr(error))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - as above
    if any(one["type"] == "json_invalid" for one in error.errors()):
        return render(problems.INVALID.problem("The body is not JSON."), request.url.path)
    return render(_listed([_of_request(one) for one in error.errors()[:20]]), request.url.path)


async def _framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - as above
    kind = _BY_STATUS.get(error.status_code, problems.INVALID if error.status_code < 500 else problems.INTERNAL)
    return render(kind.problem(str(error.detail), headers=error.headers), request.url.path)


async def _unforeseen(request: Request, error: Exception) -> Response:
    # The server logs the traceback, as the error goes on to it after this answer.
    _log.error("request.failed", path=request.url.path, error=repr(error))
    return render(problems.INTERNAL.problem(problems.INTERNAL.detail), request.url.path)
