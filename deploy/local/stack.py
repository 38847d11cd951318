"""The whole stack as values: servers, then jobs, then services, and the environment that each is handed."""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from deploy.local import ready
from deploy.local.credentials import SERVICES as CREDENTIALED
from deploy.local.credentials import Credentials
from deploy.local.envfile import read_env
from deploy.local.errors import LocalError
from deploy.local.instance import REPOSITORY, Instance
from deploy.local.ports import HOST, Ports
from deploy.local.servers import DATABASE, Addresses, Servers
from deploy.local.spec import Kind, Spec

MODEL_KEYS = ("LANEWAY_ANTHROPIC_API_KEY", "LANEWAY_OPENAI_API_KEY")
VHOST = "laneway"
CATALOGUE = str(REPOSITORY / "deploy/catalogue")
DATABASE_ROLES = {"gateway": "gateway", "agent-worker": "worker", "persister": "persister", "billing": "billing"}


@dataclass(frozen=True)
class Context:
    """What the environments are made of."""

    instance: Instance
    ports: Ports
    addresses: Addresses
    credentials: Credentials
    simulated: bool


Environment = Callable[[Context], dict[str, str]]


@dataclass(frozen=True)
class Job:
    """A Python module that runs to its end before what comes after it starts."""

    name: str
    module: str
    after: tuple[str, ...]
    environment: Environment


@dataclass(frozen=True)
class Service:
    """A Python module of which `count` processes are kept running.

    `host` and `port` name the variables that tell it where to serve HTTP, at least its readiness.
    """

    name: str
    module: str
    environment: Environment
    host: str = "LANEWAY_HEALTH_HOST"
    port: str = "LANEWAY_HEALTH_PORT"
    after: tuple[str, ...] = ("topology", "seed", "redis-state", "redis-cache")
    health: str = "/health/ready"
    count: int = 1
    stop_seconds: float = 30
    defaults: Mapping[str, str] = field(default_factory=dict)

    def names(self) -> list[str]:
        """The names of its first processes: its own, or numbered when there are several."""
        return [self.process(index) for index in range(1, self.count + 1)]

    def process(self, index: int) -> str:
        """The name of one process."""
        return self.name if self.count == 1 else f"{self.name}-{index}"


def _topology(context: Context) -> dict[str, str]:
    return {
        "LANEWAY_RABBIT_MANAGEMENT_URL": context.addresses.rabbit_management_url,
        "LANEWAY_RABBIT_VHOST": VHOST,
        "LANEWAY_CATALOGUE_DIR": CATALOGUE,
        **_passwords("LANEWAY_RABBIT_PASSWORD", context.credentials.rabbit),
    }


def _migrate(context: Context) -> dict[str, str]:
    return {
        "LANEWAY_POSTGRES_ADMIN_DSN": context.addresses.postgres_dsn,
        **_passwords("LANEWAY_POSTGRES_PASSWORD", context.credentials.postgres),
    }


def _seed(context: Context) -> dict[str, str]:
    seed = {"LANEWAY_SEED_DEMO_FILE": str(context.instance.demo_keys), "LANEWAY_CATALOGUE_DIR": CATALOGUE}
    return {**_migrate(context), **seed}


def _passwords(prefix: str, passwords: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}_{name.upper().replace('-', '_')}": passwords[name] for name in CREDENTIALED}


def _service(name: str) -> Environment:
    """What the four services have in common: their own broker user and database role, and both Redis servers."""

    def environment(context: Context) -> dict[str, str]:
        rabbit, postgres = context.credentials.rabbit[name], context.credentials.postgres[name]
        amqp, database = context.ports["amqp"], context.ports["postgres"]
        role = f"laneway_{DATABASE_ROLES[name]}"
        return {
            "LANEWAY_RABBIT_URL": f"amqp://{name}:{rabbit}@{HOST}:{amqp}/{VHOST}",
            "LANEWAY_POSTGRES_DSN": f"postgresql://{role}:{postgres}@{HOST}:{database}/{DATABASE}",
            "LANEWAY_REDIS_STATE_URL": context.addresses.redis_state_url,
            "LANEWAY_REDIS_CACHE_URL": context.addresses.redis_cache_url,
            "LANEWAY_CATALOGUE_DIR": CATALOGUE,
        }

    return environment


def _gateway(context: Context) -> dict[str, str]:
    simulated = {"LANEWAY_SIMULATED": "true"} if context.simulated else {}
    return {**_service("gateway")(context), "LANEWAY_ADMIN_KEY": context.credentials.admin_key, **simulated}


def _worker(context: Context) -> dict[str, str]:
    environment = _service("agent-worker")(context)
    if context.simulated:
        simulator = f"http://{HOST}:{context.ports['simulator']}"
        environment |= {
            "LANEWAY_ANTHROPIC_BASE_URL": simulator,
            "LANEWAY_OPENAI_BASE_URL": f"{simulator}/v1",
            "LANEWAY_ANTHROPIC_API_KEY": "simulated",
            "LANEWAY_OPENAI_API_KEY": "simulated",
            "LANEWAY_SIMULATED": "true",
        }
    return environment


JOBS = (
    Job("topology", "common.messaging.apply", ("rabbitmq",), _topology),
    Job("migrate", "deploy.migrations", ("postgres",), _migrate),
    Job("seed", "deploy.seed", ("migrate",), _seed),
)
SERVICES = (
    Service("gateway", "gateway", _gateway, "LANEWAY_HTTP_HOST", "LANEWAY_HTTP_PORT"),
    # Longer than a worker drains: LANEWAY_GRACE_SECONDS (25), and what it takes to give back what then still runs.
    Service("agent-worker", "agent_worker", _worker, count=2, stop_seconds=40, defaults={"LANEWAY_SLOTS": "20"}),
    Service("persister", "persister", _service("persister")),
    Service("billing", "billing", _service("billing")),
)
SIMULATOR = Service(
    "simulator",
    "simulator",
    lambda _: {},
    "LANEWAY_SIMULATOR_HOST",
    "LANEWAY_SIMULATOR_PORT",
    after=(),
    health="/health",
)
"""Answers for the model providers when the caller has no key for them."""


class WholeStack:
    """Servers, jobs and services of one instance. Also what `ps`, `scale` and `demo.env` know of it."""

    def __init__(self, instance: Instance, servers: Servers, ports: Ports) -> None:
        self._servers = servers
        simulated = not any(os.environ.get(key) for key in MODEL_KEYS)
        self._context = Context(instance, ports, servers.addresses, servers.credentials, simulated)
        self._services = (*SERVICES, SIMULATOR) if simulated else SERVICES

    def specs(self) -> list[Spec]:
        """Everything to start."""
        services = [self._service(service, name) for service in self._services for name in service.names()]
        return [*self._servers.specs(), *(self._job(job) for job in JOBS), *services]

    def one_more(self, service: str, index: int) -> Spec:
        """The spec of one process of a service."""
        (known,) = (candidate for candidate in self._services if candidate.name == service)
        return self._service(known, known.process(index))

    def rabbitmqctl(self, arguments: list[str]) -> Spec:
        """One run of the broker's command line tool."""
        return self._servers.rabbitmqctl(*arguments)

    def report(self) -> dict[str, str]:
        """The lines of demo.env."""
        ports, addresses = self._context.ports, self._context.addresses
        report = {
            "LANEWAY_URL": f"http://{HOST}:{ports['gateway']}",
            **read_env(self._context.instance.demo_keys),
            "LANEWAY_ADMIN_KEY": self._context.credentials.admin_key,
            "RABBITMQ_UI": f"http://{HOST}:{ports['management']}",
            "RABBITMQ_UI_USER": "admin",
            "RABBITMQ_UI_PASSWORD": self._context.credentials.rabbit_admin,
            "DATABASE_URL": addresses.postgres_dsn,
            "REDIS_URL": addresses.redis_state_url,
        }
        return report | ({"SIMULATOR_URL": f"http://{HOST}:{ports['simulator']}"} if self._context.simulated else {})

    def _job(self, job: Job) -> Spec:
        return replace(_python(job.name, job.module, job.environment(self._context)), kind=Kind.JOB, after=job.after)

    def _service(self, service: Service, name: str) -> Spec:
        port = self._context.ports[name]
        environment = {**service.environment(self._context), service.host: HOST, service.port: str(port)}
        spec = _python(name, service.module, {**service.defaults, **os.environ, **environment})
        return replace(
            spec,
            after=service.after,
            ready=ready.http(port, service.health),
            ports=(port,),
            stop_seconds=service.stop_seconds,
        )


def _python(name: str, module: str, environment: Mapping[str, str]) -> Spec:
    """A module of the repository, which must reach its neighbours directly even on a machine with a proxy."""
    direct = {name: f"{HOST},localhost,{os.environ.get(name, '')}" for name in ("NO_PROXY", "no_proxy")}
    env = {**os.environ, **environment, **direct, "PYTHONUNBUFFERED": "1"}
    return Spec(name, (sys.executable, "-m", module), env=env, cwd=REPOSITORY)


class OnlyServers:
    """The servers of an instance alone, for tests and development."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def specs(self) -> list[Spec]:
        """The servers."""
        return self._servers.specs()

    def one_more(self, service: str, index: int) -> Spec:
        """Servers are single."""
        raise LocalError(f"there is no {service}-{index}: each server is one process")

    def rabbitmqctl(self, arguments: list[str]) -> Spec:
        """One run of the broker's command line tool."""
        return self._servers.rabbitmqctl(*arguments)

    def report(self) -> dict[str, str]:
        """The servers' addresses."""
        return self._servers.addresses.as_dict()
