"""What OpenAI's two APIs share: key, errors and headers."""

from collections.abc import Mapping

import orjson

from simulator.dialects.base import Headers, bearer
from simulator.errors import CallRefused, Kind
from simulator.limits import Standing

# Status, type and code of each kind of error.
_ERRORS: dict[Kind, tuple[int, str, str | None]] = {
    "bad_request": (400, "invalid_request_error", None),
    "unauthorized": (401, "invalid_request_error", None),
    "invalid_key": (401, "invalid_request_error", "invalid_api_key"),
    "not_found": (404, "invalid_request_error", "model_not_found"),
    "rate_limited": (429, "requests", "rate_limit_exceeded"),
    "quota": (429, "insufficient_quota", "insufficient_quota"),
    "server": (500, "server_error", None),
    "overloaded": (503, "server_error", None),
}


class OpenAI:
    """The base of both APIs."""

    provider = "openai"

    def api_key(self, headers: Mapping[bytes, bytes]) -> bytes | None:
        """The bearer token."""
        return bearer(headers)

    def refusal(self, refused: CallRefused, request_id: str) -> tuple[int, bytes]:  # noqa: ARG002  (only in a header)
        """Status and error object."""
        status, kind, code = _ERRORS[refused.kind]
        error = {"message": refused.message, "type": kind, "param": None, "code": code}
        return status, orjson.dumps({"error": error})

    def headers(self, request_id: str, standing: Standing | None) -> Headers:
        """`x-request-id` and the `x-ratelimit-*` family."""
        headers = [(b"x-request-id", request_id.encode())]
        for what, allowance in zip((b"requests", b"tokens"), standing or (), strict=False):
            if allowance is None:
                continue
            if allowance.limit is not None:
                headers.append((b"x-ratelimit-limit-" + what, b"%d" % allowance.limit))
            headers += [
                (b"x-ratelimit-remaining-" + what, b"%d" % allowance.remaining),
                (b"x-ratelimit-reset-" + what, b"%gs" % round(allowance.reset, 3)),
            ]
        return headers
