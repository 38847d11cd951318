"""Whoever asks Redis gets an answer or an error, whatever goes wrong, and in time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from common import pipelining
from common.errors import CacheUnavailable
from common.pipelining import Pipelined


class _Pool:
    """A pool that has no connection to give."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    async def get_connection(self) -> None:
        if self._error is not None:
            raise self._error
        await asyncio.Event().wait()


def _client(error: Exception | None = None) -> Any:
    return SimpleNamespace(connection_pool=_Pool(error))


async def test_an_error_that_nobody_foresaw_reaches_all_who_wait() -> None:
    redis = Pipelined(_client(LookupError("a mistake of ours")), 1.0)
    with capture_logs() as logs:
        async with asyncio.timeout(5):
            answers = await asyncio.gather(*(redis.execute("PING") for _ in range(300)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {CacheUnavailable}
    assert logs[0]["event"] == "redis.flush_failed"


async def test_nobody_waits_longer_than_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipelining, "_EXCHANGES", 0.0001)
    redis = Pipelined(_client(), 60.0)
    async with asyncio.timeout(5):
        with pytest.raises(CacheUnavailable, match="within"):
            await redis.execute("PING")
