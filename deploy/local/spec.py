"""What a child process is, as a value."""

import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

Probe = Callable[[], Awaitable[bool]]
"""Answers whether the child serves now; never raises."""


class Kind(StrEnum):
    """How a child's life is judged."""

    SERVER = "server"
    """Kept running; stopped after everything that uses it."""
    JOB = "job"
    """Runs to its end once; must exit 0."""
    SERVICE = "service"
    """Kept running."""


@dataclass(frozen=True)
class User:
    """A numeric user, which the machine need not know by name."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Spec:
    """One child: what to run, where, after whom, and how to tell that it is ready."""

    name: str
    argv: tuple[str, ...]
    kind: Kind = Kind.SERVICE
    env: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    ready: Probe | None = None
    ports: tuple[int, ...] = ()
    root: Path | None = None
    user: User | None = None
    cwd: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    start_seconds: float = 90
    stop_seconds: float = 15
