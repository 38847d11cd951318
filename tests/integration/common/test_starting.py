"""What each service does at start when a server is away or refuses it, and when its port is taken."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx2
import pytest

from deploy.local.ports import HOST, Ports
from tests.stage import CATALOGUE, Stage

MODULES = {"gateway": "gateway", "agent-worker": "agent_worker", "persister": "persister", "billing": "billing"}
NOBODY = f"{HOST}:1"
SECONDS = 90.0


def _environment(stage: Stage, service: str, port: int, **changed: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LANEWAY_")}
    where = "HTTP" if service == "gateway" else "HEALTH"
    return {
        **kept,
        "LANEWAY_RABBIT_URL": stage.rabbit(service).url.get_secret_value(),
        "LANEWAY_POSTGRES_DSN": stage.login(service),
        "LANEWAY_POSTGRES_TIMEOUT": "2",
        "LANEWAY_REDIS_STATE_URL": stage.servers.redis_state_url,
        "LANEWAY_REDIS_CACHE_URL": stage.servers.redis_cache_url,
        "LANEWAY_CATALOGUE_DIR": str(CATALOGUE),
        "LANEWAY_OPENAI_API_KEY": "any",
        f"LANEWAY_{where}_HOST": HOST,
        f"LANEWAY_{where}_PORT": str(port),
        "LANEWAY_HTTP_DRAIN_SECONDS": "0",
        **changed,
    }


@contextmanager
def _process(stage: Stage, service: str, port: int, **changed: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", MODULES[service]],
        env=_environment(stage, service, port, **changed),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _refusal(stage: Stage, service: str, **changed: str) -> tuple[int, str]:
    """The exit code and the sentence of a service that does not start."""
    with Ports() as ports, _process(stage, service, ports["http"], **changed) as process:
        _, errors = process.communicate(timeout=SECONDS)
        assert errors.count("\n") == 1, errors
        return process.returncode, errors


@pytest.mark.parametrize("service", MODULES)
def test_without_the_broker_it_ends_and_says_why(stage: Stage, service: str) -> None:
    code, sentence = _refusal(stage, service, LANEWAY_RABBIT_URL=f"amqp://user:word@{NOBODY}/laneway")
    assert code == 1
    assert sentence.startswith(f"{service} cannot start: RabbitMQ cannot be reached: ")
    assert "refused" in sentence


@pytest.mark.parametrize("service", MODULES)
def test_without_the_database_and_redis_it_starts_and_says_so(stage: Stage, service: str) -> None:
    away = {
        "LANEWAY_POSTGRES_DSN": f"postgresql://role:word@{NOBODY}/laneway",
        "LANEWAY_REDIS_STATE_URL": f"redis://{NOBODY}/0",
    }
    with Ports() as ports, _process(stage, service, ports["http"], **away):
        checks = _checks(ports["http"], 503)
    assert (checks["rabbitmq"], checks["postgresql"]) == ("ok", "unavailable")
    assert checks.get("redis", "degraded") == "degraded"


@pytest.mark.parametrize("service", ["gateway", "agent-worker"])
def test_without_redis_it_is_ready_and_says_what_is_missing(stage: Stage, service: str) -> None:
    with Ports() as ports, _process(stage, service, ports["http"], LANEWAY_REDIS_STATE_URL=f"redis://{NOBODY}/0"):
        checks = _checks(ports["http"], 200)
    assert checks.pop("redis") == "degraded"
    assert set(checks.values()) == {"ok"}


def _checks(port: int, status: int) -> dict[str, str]:
    """What readiness says, once it says so with this status."""
    until = time.monotonic() + SECONDS
    while True:
        try:
            answer = httpx2.get(f"http://{HOST}:{port}/health/ready", timeout=5)
        except httpx2.HTTPError:
            assert time.monotonic() < until
            time.sleep(0.05)
            continue
        if answer.status_code == status or time.monotonic() > until:
            assert answer.status_code == status, answer.text
            checks: dict[str, str] = answer.json()["checks"]
            return checks
        time.sleep(0.05)


@pytest.mark.parametrize(("service", "other"), [("billing", "persister"), ("persister", "agent-worker")])
def test_with_the_role_of_another_service_it_does_not_start(stage: Stage, service: str, other: str) -> None:
    code, sentence = _refusal(stage, service, LANEWAY_POSTGRES_DSN=stage.login(other))
    assert code == 2
    assert sentence == f"LANEWAY_POSTGRES_DSN names a role that is not laneway_{service}, this service's own.\n"


@pytest.mark.parametrize("service", ["gateway", "agent-worker"])
@pytest.mark.parametrize(
    ("change", "why"),
    [({"path": "/nowhere"}, 'database "nowhere" does not exist'), ({"password": "wrong"}, "authentication failed")],
    ids=["database", "password"],
)
def test_a_database_that_refuses_it_is_named(stage: Stage, service: str, change: dict[str, str], why: str) -> None:
    dsn = urlsplit(stage.login(service))
    password = change.get("password", dsn.password)
    changed = dsn._replace(
        netloc=f"{dsn.username}:{password}@{dsn.hostname}:{dsn.port}", path=change.get("path", dsn.path)
    )
    code, sentence = _refusal(stage, service, LANEWAY_POSTGRES_DSN=changed.geturl())
    assert code == 2
    assert sentence.startswith("LANEWAY_POSTGRES_DSN cannot be used: ")
    assert why in sentence


def test_a_database_that_was_not_migrated_is_named(stage: Stage) -> None:
    dsn = urlsplit(stage.login("persister"))._replace(path="/postgres").geturl()
    code, sentence = _refusal(stage, "persister", LANEWAY_POSTGRES_DSN=dsn)
    assert code == 2
    assert sentence.startswith("LANEWAY_POSTGRES_DSN names a database without our schemas: ")


def test_a_virtual_host_that_is_not_there_is_named(stage: Stage) -> None:
    url = f"{stage.rabbit('persister').url.get_secret_value()}-not"
    code, sentence = _refusal(stage, "persister", LANEWAY_RABBIT_URL=url)
    assert code == 1
    assert sentence.endswith("it does not open the virtual host of LANEWAY_RABBIT_URL\n")


def test_a_broker_that_refuses_it_is_named(stage: Stage) -> None:
    url = stage.rabbit("persister").url.get_secret_value().replace(":test@", ":wrong@")
    code, sentence = _refusal(stage, "persister", LANEWAY_RABBIT_URL=url)
    assert (code, sentence) == (2, "RabbitMQ refuses the user or the password of LANEWAY_RABBIT_URL.\n")


def test_with_the_broker_user_of_another_service_it_does_not_start(stage: Stage) -> None:
    code, sentence = _refusal(stage, "persister", LANEWAY_RABBIT_URL=stage.rabbit("billing").url.get_secret_value())
    assert code == 2
    assert sentence.startswith("LANEWAY_RABBIT_URL names a user who may not consume ")


@pytest.mark.parametrize("service", MODULES)
def test_where_its_port_is_taken_it_says_so_and_never_that_it_serves(stage: Stage, service: str) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with _process(stage, service, port) as process:
            output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert errors == f"{service} cannot start: {HOST} port {port} cannot be listened on: Address already in use\n"
    assert "serving" not in output
