"""Ctrl-C while something must be finished."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def put_off() -> Iterator[None]:
    """What is done within is done to its end; an interrupt meanwhile is raised after it."""
    heard = []

    def hear(number: int, _: FrameType | None) -> None:
        heard.append(number)

    before = [signal.signal(number, hear) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(number, handler)
    if heard:
        raise KeyboardInterrupt
