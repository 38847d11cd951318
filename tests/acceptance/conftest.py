"""The stacks that acceptance tests run on: one that stays whole, and one with servers of its own, to be broken."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.stack import Stack, running
from tests.servers import CHOICE, Servers, ServersOfThisRun, ServersUnavailable
from tests.stage import staged


@pytest.fixture(scope="package")
def stack(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that nothing is broken in."""
    yield from _run(servers, tmp_path_factory.mktemp("stack"))


@pytest.fixture(scope="package")
def fragile_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack whose servers nobody else uses: they may be restarted, and Redis emptied."""
    # Never those that the environment names: they are others' too.
    own = ServersOfThisRun({CHOICE: os.environ.get(CHOICE, "")}, name="fragile-")
    try:
        servers = own.get()
    except ServersUnavailable as problem:
        own.stop()
        if os.environ.get("CI") == "true":
            pytest.fail(f"no servers: {problem}")
        pytest.skip(f"no servers: {problem}")
    try:
        yield from _run(servers, tmp_path_factory.mktemp("fragile"))
    finally:
        own.stop()


@pytest.fixture(scope="module")
def own_stacks(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stack, Stack]]:
    """All services, and a second persister, for one file: processes may be killed, the servers are not touched."""
    with (
        staged(servers) as stage,
        running(stage, tmp_path_factory.mktemp("own")) as stack,
        running(stage, tmp_path_factory.mktemp("second"), ("persister",)) as second,
    ):
        yield stack, second


def _run(servers: Servers, logs: Path) -> Iterator[Stack]:
    with staged(servers) as stage, running(stage, logs) as stack:
        yield stack
