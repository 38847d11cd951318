"""Laneway's services, each as a process of its own, on a stage of its own: for acceptance tests and benchmarks."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import httpx2

from deploy.local.child import ENTER
from deploy.local.control import Control
from deploy.local.instance import Instance
from deploy.local.ports import HOST, Ports
from tests.stage import Stage

_MODULES = {
    "simulator": "simulator",
    "gateway": "gateway",
    "agent-worker-1": "agent_worker",
    "agent-worker-2": "agent_worker",
    "persister": "persister",
    "billing": "billing",
}
_START_SECONDS = 60.0
_STOP_SECONDS = 15.0
TIERS = ("enterprise", "pro", "free")
SERVICES = tuple(_MODULES)
Settings: TypeAlias = Mapping[str, Mapping[str, str]]
"""By the name of a process: what is set in its environment beyond what it needs."""


class Stack:
    """The running services. `keys` are API keys by tier, `tenants` the tenants they belong to."""

    def __init__(
        self, stage: Stage, ports: Ports, logs: Path, settings: Settings, modules: Mapping[str, str] | None = None
    ) -> None:
        self.stage = stage
        self._settings = settings
        self._modules = {**_MODULES, **(modules or {})}
        self.url = f"http://{HOST}:{ports['gateway']}"
        self.simulator = f"http://{HOST}:{ports['simulator']}"
        self.keys: dict[str, str] = {}
        self.tenants: dict[str, UUID] = {}
        self._ports = ports
        self._logs = logs
        self._admin_key = secrets.token_urlsafe(24)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start one service and wait until it is ready."""
        with (self._logs / f"{name}.log").open("ab") as log:
            command = [sys.executable, "-m", self._modules[name]]
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-I", "-S", str(ENTER), str(os.getpid()), "-", "-", *command],
                env={**self._environment(name), **self._settings.get(name, {})},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def until_ready(self) -> None:
        """Wait until every service says that it is."""
        for name in self._processes:
            until = time.monotonic() + _START_SECONDS
            path = "/health" if name == "simulator" else "/health/ready"
            while not _answers(f"http://{HOST}:{self._ports[name]}{path}"):
                if self._processes[name].poll() is not None or time.monotonic() > until:
                    raise AssertionError(f"{name} did not start:\n{self.log(name)[-3000:]}")
                time.sleep(0.05)

    def port(self, name: str) -> int:
        """Where a service listens for HTTP."""
        return self._ports[name]

    def kill(self, name: str) -> None:
        """As the kernel would: no warning, no clean-up."""
        self._processes[name].send_signal(signal.SIGKILL)
        self._processes[name].wait()

    def terminate(self, name: str) -> None:
        """Ask it to stop, and wait for its end."""
        self._processes[name].terminate()
        self._processes[name].wait(_STOP_SECONDS * 2)

    def stop(self) -> None:
        """Stop everything."""
        for process in self._processes.values():
            process.terminate()
        until = time.monotonic() + _STOP_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def pid(self, name: str) -> int:
        """The process of a service."""
        return self._processes[name].pid

    def log(self, name: str) -> str:
        """What a service has written."""
        return (self._logs / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def client(self, tier: str = "enterprise") -> httpx2.AsyncClient:
        """A tenant's app."""
        headers = {"Authorization": f"Bearer {self.keys[tier]}"}
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=30)

    def operator(self) -> httpx2.AsyncClient:
        """Whoever has the admin key."""
        headers = {"Authorization": f"Bearer {self._admin_key}"}
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=30)

    def new_tenant(self, tier: str) -> None:
        """A tenant with the plan of that name, and its key."""
        with httpx2.Client(
            base_url=self.url, headers={"Authorization": f"Bearer {self._admin_key}"}, timeout=10
        ) as admin:
            made = admin.post("/v1/admin/tenants", json={"name": f"Test {tier}", "plan": tier})
            made.raise_for_status()
            self.tenants[tier] = UUID(made.json()["id"])
            key = admin.post(f"/v1/admin/tenants/{self.tenants[tier]}/keys", json={"name": "test"})
            key.raise_for_status()
            self.keys[tier] = key.json()["key"]

    async def audit(self) -> dict[str, Any]:
        """What the simulator served."""
        async with httpx2.AsyncClient(base_url=self.simulator, timeout=10) as client:
            answer: dict[str, Any] = (await client.get("/control/audit", params={"totals": "1"})).json()["totals"]
            return answer

    async def audited_calls(self) -> list[dict[str, Any]]:
        """Every call that the simulator served."""
        async with httpx2.AsyncClient(base_url=self.simulator, timeout=10) as client:
            calls: list[dict[str, Any]] = (await client.get("/control/audit", params={"limit": "100000"})).json()[
                "calls"
            ]
            return calls

    async def worker_of(self, task_id: str) -> str:
        """The service that runs the task."""
        [run] = await self.rows("SELECT worker FROM runtime.runs WHERE task_id = $1", UUID(task_id))
        pid = int(run["worker"].rpartition("-")[2])
        return next(name for name, process in self._processes.items() if process.pid == pid)

    async def all_started(self, tasks: list[str]) -> bool:
        """Whether all these tasks have begun to run."""
        found = await self.rows(
            "SELECT count(*) AS n FROM runtime.runs WHERE task_id = ANY($1)", [UUID(t) for t in tasks]
        )
        return bool(found[0]["n"] == len(tasks))

    async def lane_is_empty(self, queue: str) -> bool:
        """Whether nothing waits in a queue, and nothing of it is held."""
        with self.stage.management() as client:
            answer = client.get(f"/api/queues/{self.stage.name}/{queue}").json()
        return bool(answer.get("messages") == 0)

    @property
    def admin_amqp(self) -> str:
        """The virtual host, as the broker's administrator."""
        return urlsplit(self.stage.servers.rabbit_url)._replace(path=f"/{self.stage.name}").geturl()

    def restart_broker(self) -> None:
        """Restart RabbitMQ; only for a stack whose servers nobody else uses."""
        servers = self.stage.servers
        assert servers.instance is not None
        if servers.source == "native":
            Control(Instance(servers.instance)).restart("rabbitmq")
            return
        for command in ("stop_app", "start_app"):
            inside = ["docker", "exec", servers.instance, "rabbitmqctl", command]
            subprocess.run(inside, check=True, capture_output=True)

    async def crash_database(self) -> None:
        """Kill a process of PostgreSQL, as the kernel would: all its sessions end, and it recovers from its log.

        Only for a stack whose servers nobody else uses.
        """
        assert self.stage.servers.instance is not None
        connection = await asyncpg.connect(self.stage.admin_dsn)
        try:
            with suppress(asyncpg.PostgresError, OSError):
                await connection.execute(f"COPY (SELECT 1) TO PROGRAM 'kill -9 {connection.get_server_pid()}'")
        finally:
            connection.terminate()

    def gone(self) -> list[str]:
        """Services that have ended, and were not stopped here."""
        return [name for name, process in self._processes.items() if process.poll() is not None]

    async def rows(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Look into the database, as nobody but a test may."""
        connection = await asyncpg.connect(self.stage.admin_dsn)
        try:
            return list(await connection.fetch(query, *arguments))
        finally:
            await connection.close()

    def _environment(self, name: str) -> Mapping[str, str]:
        service = name.removesuffix("-1").removesuffix("-2")
        common = {
            "PATH": os.environ["PATH"],
            "LANEWAY_SECRETS_DIR": str(self._logs / "no-secrets"),
            "LANEWAY_CATALOGUE_DIR": str(self.stage.catalogue),
            "LANEWAY_SIMULATED": "true",
        }
        if service == "simulator":
            return {**common, "LANEWAY_SIMULATOR_HOST": HOST, "LANEWAY_SIMULATOR_PORT": str(self._ports[name])}
        rabbit = self.stage.rabbit(service)
        common |= {
            "LANEWAY_RABBIT_URL": rabbit.url.get_secret_value(),
            "LANEWAY_POSTGRES_DSN": self.stage.login(service),
            "LANEWAY_REDIS_STATE_URL": self.stage.servers.redis_state_url,
            "LANEWAY_REDIS_CACHE_URL": self.stage.servers.redis_cache_url,
        }
        if service == "gateway":
            http = {"LANEWAY_HTTP_HOST": HOST, "LANEWAY_HTTP_PORT": str(self._ports[name])}
            return {**common, **http, "LANEWAY_ADMIN_KEY": self._admin_key}
        common |= {"LANEWAY_HEALTH_HOST": HOST, "LANEWAY_HEALTH_PORT": str(self._ports[name])}
        if service == "agent-worker":
            common |= {
                "LANEWAY_ANTHROPIC_API_KEY": "simulated",
                "LANEWAY_ANTHROPIC_BASE_URL": self.simulator,
                "LANEWAY_OPENAI_API_KEY": "simulated",
                "LANEWAY_OPENAI_BASE_URL": f"{self.simulator}/v1",
            }
        return common


def _answers(url: str) -> bool:
    try:
        return httpx2.get(url, timeout=2).status_code == 200
    except httpx2.HTTPError:
        return False


@contextmanager
def running(
    stage: Stage,
    logs: Path,
    services: Sequence[str] = SERVICES,
    settings: Settings = MappingProxyType({}),
    modules: Mapping[str, str] | None = None,
) -> Iterator[Stack]:
    """Services on a stage, with a tenant of each tier where there is a gateway; stopped when the context ends.

    `modules` are run in place of some services' own.
    """
    with ExitStack() as cleanup:
        stack = Stack(stage, cleanup.enter_context(Ports()), logs, settings, modules)
        cleanup.callback(stack.stop)
        for name in services:
            stack.start(name)
        stack.until_ready()
        for tier in TIERS if "gateway" in services else ():
            stack.new_tenant(tier)
        yield stack
