"""The same stack by docker-compose.yml, where a Docker engine answers and has its images or can get them.

Passwords are made once for each project and kept in `.laneway/`, for as long as the data that knows them.
"""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.local.envfile import read_env, write_env
from deploy.local.errors import LocalError
from deploy.local.instance import BASE, REPOSITORY
from deploy.local.ports import HOST
from deploy.local.stack import MODEL_KEYS

COMPOSE_FILE = REPOSITORY / "docker-compose.yml"
LOCAL_FILE = BASE / "compose.local.json"
SERVER_IMAGES = ("rabbitmq:4.3-management", "postgres:18", "redis:8")
IMAGES = ("python:3.13-slim", *SERVER_IMAGES, "nginx:1")
PROJECT = f"laneway-{sha256(os.fsencode(REPOSITORY)).hexdigest()[:6]}"
"""Of this folder alone: another clone's containers and data are not touched."""
ENGINE_SECONDS, PULL_SECONDS, START_SECONDS = 10, 20, 300
SECRET_NAMES = (
    "LANEWAY_ADMIN_KEY",
    "LANEWAY_RABBIT_ADMIN_PASSWORD",
    "LANEWAY_POSTGRES_ADMIN_PASSWORD",
    "LANEWAY_REDIS_PASSWORD",
    *(
        f"LANEWAY_{server}_PASSWORD_{service}"
        for server in ("RABBIT", "POSTGRES")
        for service in ("GATEWAY", "AGENT_WORKER", "PERSISTER", "BILLING")
    ),
)
PUBLISHED = {"LANEWAY_PUBLISH_HTTP": 8000, "LANEWAY_PUBLISH_RABBITMQ_UI": 15672}
LOCALLY_PUBLISHED = {"postgres": 5432, "redis-state": 6379, "simulator": 8080}
"""What docker-compose.yml keeps inside, and a developer wants to reach: on free ports of the loopback interface."""
SIMULATED = {
    "COMPOSE_PROFILES": "simulated",
    "LANEWAY_SIMULATED": "true",
    "LANEWAY_ANTHROPIC_API_KEY": "simulated",
    "LANEWAY_ANTHROPIC_BASE_URL": "http://simulator:8080",
    "LANEWAY_OPENAI_API_KEY": "simulated",
    "LANEWAY_OPENAI_BASE_URL": "http://simulator:8080/v1",
}
DEMO_KEYS = "/var/lib/laneway/demo-keys.env"


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
    configure(project)
    print("building the images, starting the containers: a minute or two at the first time", file=sys.stderr)
    compose(project, "build", quiet=True)
    try:
        compose(project, "up", "-d", "--wait", "--wait-timeout", str(START_SECONDS), "--quiet-pull")
        return addresses(project)
    except BaseException as error:
        if isinstance(error, LocalError):
            _show_unwell(project)
        stop(project)
        raise


def stop(project: str = PROJECT, *, volumes: bool = False) -> bool:
    """Remove the containers, and the data if asked, here or by `make down CLEAN=1`. False if there was nothing."""
    clean = volumes or bool(os.environ.get("CLEAN"))
    if not (is_up(project) or (clean and settings_file(project).exists())):
        return False
    # Only what is kept needs its time to stop in good order.
    compose(project, "down", "--remove-orphans", *(["--volumes", "--timeout", "5"] if clean else []))
    if clean:
        settings_file(project).unlink(missing_ok=True)
    return True


def is_up(project: str = PROJECT) -> bool:
    """Whether containers of this project, started from this folder, exist."""
    if not COMPOSE_FILE.exists() or shutil.which("docker") is None:
        return False
    label = "label=com.docker.compose.project"
    where = ("--filter", f"{label}={project}", "--filter", f"{label}.working_dir={REPOSITORY}")
    command = ("docker", "ps", "-aq", *where)
    return bool(subprocess.run(command, capture_output=True, timeout=ENGINE_SECONDS, check=False).stdout)


def addresses(project: str = PROJECT) -> dict[str, str]:
    """The lines of demo.env."""
    known = read_env(settings_file(project))
    postgres, redis = _published(project, "postgres"), _published(project, "redis-state")
    simulator = {"SIMULATOR_URL": f"http://{_published(project, 'simulator')}"} if _is_simulated(known) else {}
    return {
        "LANEWAY_URL": f"http://{_published(project, 'nginx', 80)}",
        **_demo_keys(project),
        "LANEWAY_ADMIN_KEY": known["LANEWAY_ADMIN_KEY"],
        "RABBITMQ_UI": f"http://{_published(project, 'rabbitmq', 15672)}",
        "RABBITMQ_UI_USER": "admin",
        "RABBITMQ_UI_PASSWORD": known["LANEWAY_RABBIT_ADMIN_PASSWORD"],
        "DATABASE_URL": f"postgresql://postgres:{known['LANEWAY_POSTGRES_ADMIN_PASSWORD']}@{postgres}/laneway",
        "REDIS_URL": f"redis://:{known['LANEWAY_REDIS_PASSWORD']}@{redis}/0",
        **simulator,
    }


def settings_file(project: str) -> Path:
    """What docker-compose.yml is filled in with: `.laneway/compose.env` for the project of `make up`."""
    return BASE / f"{project.replace(PROJECT, 'compose', 1)}.env"


def configure(project: str) -> None:
    """Make the passwords that are missing, keep those that the data volumes know, and choose the rest anew."""
    file = settings_file(project)
    file.parent.mkdir(exist_ok=True)
    known = read_env(file)
    passwords = {name: known.get(name) or secrets.token_hex(24) for name in SECRET_NAMES}
    ports = {name: os.environ.get(name) or str(_port(project, port)) for name, port in PUBLISHED.items()}
    models = {} if any(os.environ.get(key) for key in MODEL_KEYS) else SIMULATED
    write_env(file, {**passwords, **ports, **models, "LANEWAY_SEED_DEMO_FILE": DEMO_KEYS})
    services = {service: {"ports": [f"{HOST}::{port}"]} for service, port in LOCALLY_PUBLISHED.items()}
    LOCAL_FILE.write_text(json.dumps({"services": services}))


def compose(project: str, *arguments: str, quiet: bool = False) -> None:
    """Run `docker compose`, letting it talk to the user. Ctrl-C does not reach what stops the stack."""
    done = subprocess.run(
        _command(project, *arguments),
        cwd=REPOSITORY,
        capture_output=quiet,
        text=True,
        check=False,
        start_new_session=arguments[0] == "down",
    )
    if done.returncode != 0:
        why = f": {done.stdout[-2000:]}{done.stderr[-2000:]}".rstrip() if quiet else ""
        raise LocalError(f"docker compose {arguments[0]} failed with status {done.returncode}{why}")


def _command(project: str, *arguments: str) -> list[str]:
    settings = settings_file(project)
    environment = ["--env-file", str(settings)] if settings.exists() else []
    local = ["-f", str(LOCAL_FILE)] if LOCAL_FILE.exists() else []
    return ["docker", "compose", "-p", project, *environment, "-f", str(COMPOSE_FILE), *local, *arguments]


def _show_unwell(project: str) -> None:
    """The last words of whatever is not well: its own sentence says more than compose can."""
    states = "{{.Service}} {{.State}} {{.Health}} {{.ExitCode}}"
    listing = subprocess.run(
        _command(project, "ps", "-a", "--format", states), cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    well = ("running healthy 0", "exited  0", "created  0")
    lines = [line.partition(" ") for line in listing.stdout.splitlines()]
    if unwell := {service for service, _, state in lines if state not in well}:
        compose(project, "logs", "--no-color", "--tail", "5", *sorted(unwell))


def _published(project: str, service: str, port: int | None = None) -> str:
    command = _command(project, "port", service, str(port or LOCALLY_PUBLISHED[service]))
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.strip()


def _demo_keys(project: str) -> dict[str, str]:
    """The keys that the seed job made; it has ended, but its volume can still be read."""
    with TemporaryDirectory() as folder:
        keys = Path(folder) / "keys.env"
        compose(project, "cp", f"seed:{DEMO_KEYS}", str(keys), quiet=True)
        return read_env(keys)


def _port(project: str, usual: int) -> int:
    """The usual port for the project of `make up` where nothing else has it; 0 for any free one."""
    if project != PROJECT:
        return 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, usual))
        except OSError:
            return 0
    return usual


def _is_simulated(settings: dict[str, str]) -> bool:
    return "LANEWAY_SIMULATED" in settings


def _succeeds(*command: str, seconds: int = ENGINE_SECONDS) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=seconds, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False
