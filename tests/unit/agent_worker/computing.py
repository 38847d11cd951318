"""Tools that compute, as another package would bring them: a process of their own finds them by this module's name."""

from __future__ import annotations

import os
import time
from datetime import date
from pathlib import Path

from agent_worker.tools.base import Tool
from agent_worker.tools.signature import ToolError


def square(n: int) -> int:
    """The square of a number."""
    return n * n


def weekday(day: date) -> str:
    """The day of the week."""
    return day.strftime("%A")


def whoami() -> str:
    """The process that computes, and what it is told of its parent's secrets."""
    print("a word to the log")
    return f"{os.getpid()} {os.environ.get('LANEWAY_ANTHROPIC_API_KEY', 'nothing')}"


def for_ever() -> str:
    """Never ends."""
    while True:
        time.sleep(0)


def for_ever_after(path: str) -> str:
    """Never ends, once it has written a file."""
    Path(path).touch()
    return for_ever()


def gluttonous() -> str:
    """Takes all memory."""
    return str(len(b"x" * (8 * 1024**3)))


def crashing() -> str:
    """Ends its process."""
    os._exit(3)


def refusing() -> str:
    """Never works."""
    raise ToolError("not today")


def broken() -> str:
    """Has a mistake."""
    raise RuntimeError("password=hunter2")


async def greet(name: str) -> str:
    """Say hello."""
    return f"hello {name}"


READY_MADE = Tool.of(greet, timeout=1.0, side_effect=True, ask=True)
NOT_A_TOOL = 42
