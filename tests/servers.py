"""The RabbitMQ, PostgreSQL and Redis of tests and benchmarks: from the environment, from Docker, or native.

Those that are started here live in a process of their own, which prints their addresses as one line of JSON and stops
them when its standard input ends. So they go when the test run goes, however it ends, and nothing of a Docker client or
of an event loop is left in the test process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from deploy.local import compose

Source = Literal["environment", "docker", "native"]
VARIABLES = {
    "rabbit_url": "LANEWAY_TEST_RABBIT_URL",
    "rabbit_management_url": "LANEWAY_TEST_RABBIT_MANAGEMENT_URL",
    "postgres_dsn": "LANEWAY_TEST_POSTGRES_DSN",
    "redis_state_url": "LANEWAY_TEST_REDIS_URL",
    "redis_cache_url": "LANEWAY_TEST_REDIS_CACHE_URL",
}
CHOICE = "LANEWAY_TEST_SERVERS"
STOP_SECONDS = 60
REPOSITORY = Path(__file__).resolve().parents[1]


class ServersUnavailable(Exception):
    """No servers can be had; the message says why."""


@dataclass(frozen=True)
class Servers:
    """Where the servers are, as their administrator. `instance` names those that are this run's own: the native one, or
    the broker's container."""

    rabbit_url: str
    rabbit_management_url: str
    postgres_dsn: str
    redis_state_url: str
    redis_cache_url: str
    source: Source
    instance: str | None = None

    def dump(self) -> str:
        """As text, for the other processes of a test run."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Servers:
        """What `dump` wrote."""
        return cls(**json.loads(text))


class ServersOfThisRun:
    """Starts the servers when they are first asked for, and stops them at the end. One per test run."""

    def __init__(self, environment: Mapping[str, str] = os.environ, name: str = "", *, durable: bool = False) -> None:
        """`name` tells several sets of one process apart; `durable` ones write to disk as those of `make up` do."""
        self._environment = environment
        self._name = f"test-{name}{os.getpid()}"
        self._durable = ["--durable"] if durable else []
        self._process: subprocess.Popen[str] | None = None
        self._servers: Servers | None = None
        self._problem: str | None = None

    def get(self) -> Servers:
        """The servers. Raises `ServersUnavailable`, quickly from the second time on."""
        if self._problem is None and self._servers is None:
            try:
                self._servers = from_environment(self._environment) or self._start(self._source())
            except ServersUnavailable as problem:
                self._problem = str(problem)
        if self._servers is None:
            raise ServersUnavailable(self._problem)
        return self._servers

    def stop(self) -> None:
        """Stop what was started."""
        if self._process is None:
            return
        assert self._process.stdin
        self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._process = None

    def _source(self) -> Source:
        choice = self._environment.get(CHOICE, "")
        if choice == "none":
            raise ServersUnavailable(f"{CHOICE}=none")
        if choice not in ("", "docker", "native"):
            raise ServersUnavailable(f"{CHOICE} is docker, native or none, not {choice!r}")
        if choice == "docker" or (not choice and compose.has_images(compose.SERVER_IMAGES)):
            return "docker"
        return "native"

    def _start(self, source: Source) -> Servers:
        native = ["deploy.local", "servers", "--instance", self._name, "--ephemeral", "--until-eof", *self._durable]
        containers = ["deploy.local.containers", *self._durable]
        self._process = subprocess.Popen(
            [sys.executable, "-m", *(containers if source == "docker" else native)],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the test run, which then stops this
        )
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise ServersUnavailable(f"the {source} servers did not start; see above")
        addresses = json.loads(line)
        return Servers(
            **{name: addresses[name] for name in VARIABLES}, source=source, instance=addresses.get("instance")
        )


def from_environment(environment: Mapping[str, str]) -> Servers | None:
    """The servers that the environment names; all or none. A single Redis serves as both."""
    found = {name: environment[variable] for name, variable in VARIABLES.items() if environment.get(variable)}
    if not found:
        return None
    found.setdefault("redis_cache_url", found.get("redis_state_url", ""))
    missing = [VARIABLES[name] for name in VARIABLES if not found.get(name)]
    if missing:
        raise ServersUnavailable(f"some servers are named in the environment, but not {', '.join(missing)}")
    return Servers(**found, source="environment")
