"""What can go wrong with the local stack; each message is the sentence the user reads.

LocalError
├── ServersMissing      no usable servers here, and no way to unpack them
├── AlreadyUp           another supervisor owns this instance
├── NotUp               no supervisor answers for this instance
├── StartFailed         a child died or was not ready in time
└── BadRequest          a control request that names nothing known
"""


class LocalError(Exception):
    """The root: caught once, at the command line."""


class ServersMissing(LocalError):
    """No usable servers here, and no way to unpack them."""


class AlreadyUp(LocalError):
    """Another supervisor owns this instance."""


class NotUp(LocalError):
    """No supervisor answers for this instance."""


class StartFailed(LocalError):
    """A child died, or was not ready in time. Carries the child's `name`."""

    def __init__(self, name: str, why: str, log_tail: str = "") -> None:
        super().__init__(f"{name} {why}" + (f"; the end of its log:\n{log_tail}" if log_tail else ""))
        self.name = name


class BadRequest(LocalError):
    """A control request that names nothing known."""
