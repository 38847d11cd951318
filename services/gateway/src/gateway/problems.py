"""Errors as RFC 9457 problems: each kind has a stable type, a status and a title, and is documented from here.

Problem
└── built by `Kind.problem(detail, ...)`; rendered by `render`; the handlers in `failures` map all other errors
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
COME_AGAIN = {"Retry-After": "2"}


@dataclass(frozen=True)
class Kind:
    """One kind of problem."""

    name: str
    status: int
    title: str
    detail: str
    """An example of what a client reads."""

    @property
    def type(self) -> str:
        """The stable identifier that programs compare."""
        return f"urn:laneway:problem:{self.name}"

    def problem(
        self,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[Mapping[str, Any]] | None = None,
        members: Mapping[str, Any] | None = None,
    ) -> Problem:
        """An error of this kind, to be raised; `members` are further ones of the document (RFC 9457, 3.2)."""
        return Problem(self, detail, dict(headers or {}), errors, dict(members or {}))


class Problem(Exception):
    """A request that is answered with a problem document."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        headers: Mapping[str, str],
        errors: Sequence[Mapping[str, Any]] | None,
        members: Mapping[str, Any],
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.headers = headers
        self.errors = errors
        self.members = members


UNAUTHENTICATED = Kind("unauthenticated", 401, "Unauthenticated", "The API key is not valid.")
FORBIDDEN = Kind("forbidden", 403, "Forbidden", "The tier 'enterprise' is above this user's tier 'free'.")
NOT_FOUND = Kind("not-found", 404, "Not found", "There is no such task.")
METHOD_NOT_ALLOWED = Kind("method-not-allowed", 405, "Method not allowed", "This address does not support DELETE.")
CONFLICT = Kind("idempotency-conflict", 409, "Conflict", "This Idempotency-Key was used with another request.")
NOT_WAITING = Kind(
    "not-waiting", 409, "Not waiting for approval", "The task has ended as cancelled: nothing of it waits for approval."
)
ALREADY_DECIDED = Kind(
    "already-decided",
    409,
    "Already decided",
    "Somebody has decided otherwise: approve, by key:k1, at 2026-07-01.",
)
TOO_LARGE = Kind("too-large", 413, "Content too large", "The body is larger than 131072 bytes.")
UNSUPPORTED_MEDIA = Kind(
    "unsupported-media-type",
    415,
    "Unsupported media type",
    "Send the body as JSON, with the header `Content-Type: application/json`.",
)
INVALID = Kind("invalid-request", 422, "Invalid request", "priority: Input should be less than or equal to 9")
RATE_LIMITED = Kind("rate-limited", 429, "Too many requests", "The plan allows 600 requests per minute.")
TOO_MANY_OUTSTANDING = Kind(
    "too-many-outstanding",
    429,
    "Too many outstanding tasks",
    "2000 tasks may be outstanding: submit again when some have ended, or cancel some.",
)
INTERNAL = Kind("internal", 500, "Internal error", "The request could not be served; it was logged.")
UNAVAILABLE = Kind(
    "unavailable", 503, "Unavailable", "A server did not answer in time. Nothing was accepted: a retry is safe."
)
LANE_FULL = Kind(
    "lane-full",
    503,
    "Lane full",
    "The lane takes no more tasks now. Submit this one again later, with the same Idempotency-Key if it had one.",
)

KINDS = (
    UNAUTHENTICATED, FORBIDDEN, NOT_FOUND, METHOD_NOT_ALLOWED, CONFLICT, NOT_WAITING, ALREADY_DECIDED, TOO_LARGE,
    UNSUPPORTED_MEDIA, INVALID, RATE_LIMITED, TOO_MANY_OUTSTANDING, INTERNAL, UNAVAILABLE, LANE_FULL,
)  # fmt: skip


def unavailable(
    consequence: str, *, headers: Mapping[str, str] | None = None, members: Mapping[str, Any] | None = None
) -> Problem:
    """A server was away; `consequence` is what that means for what was asked, as far as it is known."""
    detail = f"A server did not answer in time. {consequence}".strip()
    return UNAVAILABLE.problem(detail, headers={**(headers or {}), **COME_AGAIN}, members=members)


def render(problem: Problem, instance: str) -> Response:
    """The response for a problem; `instance` is the address that was asked."""
    kind = problem.kind
    document: dict[str, Any] = {
        "type": kind.type,
        "title": kind.title,
        "status": kind.status,
        "detail": problem.detail,
        "instance": instance,
        **problem.members,
    }
    if problem.errors is not None:
        document["errors"] = problem.errors
    return Response(orjson.dumps(document), kind.status, problem.headers, MEDIA_TYPE)
