"""The same stack by docker-compose.yml, where a Docker engine answers and has its images or can get them."""

import os
import secrets
import shutil
import subprocess
from collections.abc import Iterable

from deploy.local.envfile import read_env, write_env
from deploy.local.errors import LocalError
from deploy.local.instance import BASE, REPOSITORY

COMPOSE_FILE = REPOSITORY / "docker-compose.yml"
SECRETS_FILE = BASE / "compose.env"
SERVER_IMAGES = ("rabbitmq:4.3-management", "postgres:18", "redis:8")
IMAGES = ("python:3.13-slim", *SERVER_IMAGES)
PROJECT = "laneway"
ENGINE_SECONDS, PULL_SECONDS = 10, 20
SECRET_NAMES = (
    "LANEWAY_ADMIN_KEY",
    "LANEWAY_RABBIT_ADMIN_PASSWORD",
    "LANEWAY_POSTGRES_ADMIN_PASSWORD",
    *(
        f"LANEWAY_{server}_PASSWORD_{service}"
        for server in ("RABBIT", "POSTGRES")
        for service in ("GATEWAY", "AGENT_WORKER", "PERSISTER", "BILLING")
    ),
)


def chosen() -> bool:
    """Whether the stack runs by compose: as LANEWAY_RUNTIME says, else where Docker can."""
    runtime = os.environ.get("LANEWAY_RUNTIME", "")
    if runtime not in ("", "docker", "native"):
        raise LocalError(f"LANEWAY_RUNTIME is docker or native, not {runtime!r}")
    return runtime == "docker" or (runtime == "" and usable())


def usable() -> bool:
    """Whether docker-compose.yml is there, an engine answers, and the base images are there or can be pulled."""
    return COMPOSE_FILE.exists() and _succeeds("docker", "compose", "version") and has_images(IMAGES)


def has_images(images: Iterable[str]) -> bool:
    """Whether a Docker engine answers and has, or can pull, all of these. A pull is given little time."""
    return (
        shutil.which("docker") is not None
        and _succeeds("docker", "info")
        and all(is_present(image) or _succeeds("docker", "pull", image, seconds=PULL_SECONDS) for image in images)
    )


def is_present(image: str) -> bool:
    """Whether the engine has this image already."""
    return _succeeds("docker", "image", "inspect", image)


def start(project: str = PROJECT) -> dict[str, str]:
    """Build and start everything, wait until it is healthy, and return its addresses. Stops it again if that fails."""
    _make_secrets()
    try:
        compose(project, "up", "--build", "-d", "--wait", "--quiet-pull")
    except BaseException:
        stop(project)
        raise
    return addresses(project)


def stop(project: str = PROJECT, *, volumes: bool = False) -> bool:
    """Remove the containers (and the data, if asked); False when there were none."""
    if not is_up(project):
        return False
    compose(project, "down", "--remove-orphans", "--timeout", "30", *(["--volumes"] if volumes else []))
    return True


def is_up(project: str = PROJECT) -> bool:
    """Whether containers of this project exist."""
    if not COMPOSE_FILE.exists() or shutil.which("docker") is None:
        return False
    command = ("docker", "ps", "-aq", "--filter", f"label=com.docker.compose.project={project}")
    return bool(subprocess.run(command, capture_output=True, timeout=ENGINE_SECONDS, check=False).stdout)


def addresses(project: str = PROJECT) -> dict[str, str]:
    """The lines of demo.env."""
    known = read_env(SECRETS_FILE)
    return {
        "LANEWAY_URL": f"http://{_published(project, 'gateway', 8000)}",
        "LANEWAY_ADMIN_KEY": known["LANEWAY_ADMIN_KEY"],
        "RABBITMQ_UI": f"http://{_published(project, 'rabbitmq', 15672)}",
        "RABBITMQ_UI_USER": "admin",
        "RABBITMQ_UI_PASSWORD": known["LANEWAY_RABBIT_ADMIN_PASSWORD"],
    }


def compose(project: str, *arguments: str) -> None:
    """Run `docker compose`, letting it talk to the user."""
    done = subprocess.run(_command(project, *arguments), cwd=REPOSITORY, check=False)
    if done.returncode != 0:
        raise LocalError(f"docker compose {arguments[0]} failed with status {done.returncode}")


def _command(project: str, *arguments: str) -> list[str]:
    environment = ["--env-file", str(SECRETS_FILE)] if SECRETS_FILE.exists() else []
    return ["docker", "compose", "-p", project, *environment, "-f", str(COMPOSE_FILE), *arguments]


def _published(project: str, service: str, port: int) -> str:
    command = _command(project, "port", service, str(port))
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()


def _make_secrets() -> None:
    """Make what is missing, keep what is there: the data volumes know the passwords of before."""
    known = read_env(SECRETS_FILE)
    write_env(SECRETS_FILE, {name: secrets.token_hex(24) for name in SECRET_NAMES} | known)


def _succeeds(*command: str, seconds: int = ENGINE_SECONDS) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=seconds, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
