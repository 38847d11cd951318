"""What can go wrong in a simulated call, in terms both providers share.

    SimulatorError
    ├── CallRefused       answered with an error status, in the provider's own JSON shape
    └── DirectiveInvalid  a `[[sim ...]]` directive in a prompt that cannot be understood

A refusal names its `kind`; each provider's dialect knows the status, type and code that kind has on its wire.
"""

from typing import Literal

Kind = Literal[
    "bad_request",
    "unauthorized",
    "invalid_key",
    "not_found",
    "rate_limited",
    "quota",
    "server",
    "overloaded",
]


class SimulatorError(Exception):
    """Root of the errors of this package."""


class CallRefused(SimulatorError):
    """The call is answered with an error; `retry_after` (seconds) becomes a Retry-After header when set."""

    def __init__(self, kind: Kind, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after = retry_after


class DirectiveInvalid(SimulatorError):
    """A directive in the prompt is malformed; the text says what is wrong and where."""
