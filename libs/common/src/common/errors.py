"""What can go wrong in every service, as one tree.

LanewayError
├── ConfigurationError      a setting is missing or contradictory; exit code 2
├── DecodeError             bytes that are no message of ours; belongs in the dead letters
├── PoisonError             a message, or a value in it, that can never succeed; belongs in the dead letters
└── Unavailable             a server we depend on did not do its part in time; try again later
    ├── BrokerUnavailable   RabbitMQ: the outcome of a publish is unknown, repeat it with the same stable id
    │   ├── LaneFull        the broker refused the message because a queue is at its limit
    │   └── Unroutable      no queue is bound: the topology was not applied
    ├── StoreUnavailable    PostgreSQL
    │   └── StoreContended  it answered: the statement lost a lock to another one
    └── CacheUnavailable    Redis
        └── CacheRefused    it answered: not this command, as its memory is full or the value is of another type
"""

from __future__ import annotations


class LanewayError(Exception):
    """Root of the errors that Laneway raises itself."""


class ConfigurationError(LanewayError):
    """A setting is missing or contradictory."""


class DecodeError(LanewayError):
    """These bytes are not a message this service understands."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class PoisonError(LanewayError):
    """This message, or a value in it, can never succeed."""


class Unavailable(LanewayError):
    """A server we depend on did not do its part in time."""


class BrokerUnavailable(Unavailable):
    """RabbitMQ did not confirm; whether it took the message is unknown."""


class LaneFull(BrokerUnavailable):
    """The broker refused the message: a queue is at its length limit."""


class Unroutable(BrokerUnavailable):
    """No queue is bound for this message: run `make topology`."""


class StoreUnavailable(Unavailable):
    """PostgreSQL did not answer in time."""


class StoreContended(StoreUnavailable):
    """PostgreSQL gave the statement up for a lock that another one has."""


class CacheUnavailable(Unavailable):
    """Redis did not answer in time."""


class CacheRefused(CacheUnavailable):
    """Redis answered one command with an error."""
