"""The servers of a test run: started at most once, by the one process that all others of the run descend from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.servers import Servers, ServersOfThisRun, ServersUnavailable
from tests.units_of_work import UnitsOfWork

SERVERS = pytest.StashKey[ServersOfThisRun]()
UNIT = Path(__file__).parent / "unit"


def pytest_configure(config: pytest.Config) -> None:
    """Every process but an xdist worker may start servers; nothing is started here."""
    if not hasattr(config, "workerinput"):
        config.stash[SERVERS] = ServersOfThisRun()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hand the servers to an xdist worker: it cannot start them, for it may end before the others do."""
    if not _only_unit_tests(node.config):
        try:
            node.workerinput["servers"] = node.config.stash[SERVERS].get().dump()
        except ServersUnavailable as problem:
            node.workerinput["no_servers"] = str(problem)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> UnitsOfWork | None:
    """See `UnitsOfWork`."""
    return UnitsOfWork(config, log) if config.getoption("dist") == "loadfile" else None


def pytest_unconfigure(config: pytest.Config) -> None:
    """Stop what was started, after Ctrl-C too."""
    if SERVERS in config.stash:
        config.stash[SERVERS].stop()


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Servers:
    """Real RabbitMQ, PostgreSQL and Redis. Without them the test is skipped; in CI it fails."""
    try:
        return _servers(request.config)
    except ServersUnavailable as problem:
        reason = f"no servers: {problem}"
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def _servers(config: pytest.Config) -> Servers:
    if SERVERS in config.stash:
        return config.stash[SERVERS].get()
    handed: Mapping[str, str] = getattr(config, "workerinput", {})
    if "servers" not in handed:
        raise ServersUnavailable(handed.get("no_servers", "the run was taken for one of unit tests only"))
    return Servers.parse(handed["servers"])


def _only_unit_tests(config: pytest.Config) -> bool:
    """Whether nothing but unit tests was asked for: then the workers are not kept waiting for servers."""
    paths = [Path(config.invocation_params.dir, argument.partition("::")[0]).resolve() for argument in config.args]
    return all(path.is_relative_to(UNIT) for path in paths)
