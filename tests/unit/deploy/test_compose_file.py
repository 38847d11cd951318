"""docker-compose.yml, the images and the configuration files, held to the code that they start."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from agent_worker.settings import WorkerSettings
from billing.settings import BillingSettings
from common.messaging import apply
from common.settings import ServiceSettings
from deploy.local import compose, stack
from deploy.migrations.__main__ import MigrateSettings
from deploy.seed import SeedSettings
from gateway.limits import MAX_BATCH_BODY, MAX_BODY, MAX_UPLOAD_BODY
from gateway.settings import Settings as GatewaySettings
from persister.settings import PersisterSettings

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / "docker-compose.yml").read_text()
FILE: dict[str, Any] = yaml.safe_load(TEXT)
EXAMPLE = (ROOT / ".env.example").read_text()
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
SETTINGS: dict[str, type[ServiceSettings]] = {
    "gateway": GatewaySettings,
    "agent-worker": WorkerSettings,
    "persister": PersisterSettings,
    "billing": BillingSettings,
    "topology": apply.ApplySettings,
    "migrate": MigrateSettings,
    "seed": SeedSettings,
}
DECIDED_BY_THE_IMAGE = {
    "LANEWAY_HEALTH_HOST",
    "LANEWAY_HEALTH_PORT",
    "LANEWAY_HTTP_HOST",
    "LANEWAY_HTTP_PORT",
    "LANEWAY_CATALOGUE_DIR",
    "LANEWAY_RABBIT_USER_PREFIX",  # for tests that share a broker
}
CHOSEN_BY_THE_FILE = {"LANEWAY_HTTP_REPLICAS", "LANEWAY_SEED_DEMO_FILE"}
"""What docker-compose.yml sets itself, or the example proposes."""
JOBS = {"topology", "migrate", "seed"}


def settings_of(model: type[BaseModel], prefix: str = "LANEWAY") -> Iterator[str]:
    """The names of all environment variables that the settings read."""
    for name, field in model.model_fields.items():
        variable = f"{prefix}_{name.upper()}"
        group = group_of(field)
        yield from settings_of(group, variable) if group else [variable]


def defaults_of(model: type[BaseModel], prefix: str = "LANEWAY") -> Iterator[tuple[str, Any]]:
    """The defaults of all environment variables that have one."""
    for name, field in model.model_fields.items():
        variable = f"{prefix}_{name.upper()}"
        default = field.get_default(call_default_factory=False)
        if group := group_of(field):
            yield from defaults_of(group, variable)
        elif not field.is_required() and default is not None:
            yield variable, default


def group_of(field: FieldInfo) -> type[BaseModel] | None:
    """The settings within, where the field is a group of them."""
    kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, BaseModel)), None)


def handed_to(service: str) -> set[str]:
    """What the file hands to a service, by environment or as a secret file."""
    definition = FILE["services"][service]
    files = {Path(entry["target"]).name.upper() for entry in definition.get("configs", ())}
    return set(definition.get("environment", {})) | files


@pytest.mark.parametrize("service", sorted(SETTINGS.keys() - JOBS))
def test_every_setting_of_a_service_can_be_set(service: str) -> None:
    assert set(settings_of(SETTINGS[service])) - DECIDED_BY_THE_IMAGE <= handed_to(service)


@pytest.mark.parametrize("service", SETTINGS)
def test_nothing_is_handed_to_a_service_that_it_does_not_read(service: str) -> None:
    assert handed_to(service) <= set(settings_of(SETTINGS[service]))


def test_the_example_lists_every_variable_with_a_comment_above_its_group() -> None:
    passed_through = {name for each in FILE["services"].values() for name in each.get("environment", {})}
    ours = {name for name in passed_through if name.startswith("LANEWAY_")} - {"LANEWAY_RABBIT_VHOST"}
    wanted = ours | set(re.findall(r"\$\{(\w+)", TEXT))
    listed = set(re.findall(r"^#?(\w+)=", EXAMPLE, re.MULTILINE))
    assert listed == wanted | {"COMPOSE_PROFILES", "PIP_INDEX_URL", "UV_DEFAULT_INDEX"}


def test_passwords_have_no_default_and_their_absence_is_said_in_words() -> None:
    demanded = set(re.findall(r"\$\{(\w+):\?set it, see \.env\.example\}", TEXT))
    assert demanded == set(compose.SECRET_NAMES)
    secret = re.compile(r"(PASSWORD|KEY)\w*:?-.")
    assert not [name for name in re.findall(r"\$\{([^}]+)\}", TEXT) if secret.search(name)]
    assert not re.search(r"^LANEWAY_\w*(PASSWORD|ADMIN_KEY)\w*=.+", EXAMPLE, re.MULTILINE)


def test_no_environment_variable_carries_a_password_or_key() -> None:
    for service, definition in FILE["services"].items():
        for name, value in definition.get("environment", {}).items():
            assert "PASSWORD" not in str(value), f"{service}: {name}"
            assert "KEY" not in name, f"{service}: {name}"


def test_a_key_that_is_not_set_is_a_file_that_says_nothing() -> None:
    """Not an empty one: Docker would make a folder of it."""
    for name in ("anthropic-api-key", "openai-api-key"):
        content = FILE["configs"][name]["content"]
        assert re.sub(r"\$\{\w+:-\}", "", content) == "\n"


def test_the_simulator_is_set_up_as_the_example_says() -> None:
    assert all(f"#{name}={value}\n" in EXAMPLE for name, value in compose.SIMULATED.items())
    assert FILE["services"]["simulator"]["profiles"] == [compose.SIMULATED["COMPOSE_PROFILES"]]


def test_services_scale() -> None:
    for name, definition in FILE["services"].items():
        assert "container_name" not in definition, name
        published = bool(definition.get("ports"))
        assert published == (name in {"nginx", "rabbitmq"}), name
        assert all(port["host_ip"] == "127.0.0.1" for port in definition.get("ports", ())), name


def test_all_but_jobs_are_watched_limited_and_restarted() -> None:
    for name, definition in FILE["services"].items():
        assert "memory" in definition["deploy"]["resources"]["limits"], name
        assert definition["restart"] == ("no" if name in JOBS else "unless-stopped"), name
        assert ("healthcheck" in definition) == (name not in JOBS), name


def test_no_container_can_gain_rights() -> None:
    for name, definition in FILE["services"].items():
        assert definition["cap_drop"] == ["ALL"], name
        assert definition["security_opt"] == ["no-new-privileges:true"], name
        assert definition["deploy"]["resources"]["limits"]["pids"], name
        assert ("cap_add" in definition) == (not definition["image"].startswith("laneway/")), name


def test_numbers_are_not_for_those_who_come_through_nginx() -> None:
    text = (ROOT / "deploy/nginx/nginx.conf").read_text()
    assert re.search(r"location = /metrics \{\s+return 404;\s+\}", text)


@pytest.mark.parametrize("service", sorted(SETTINGS))
def test_the_example_shows_the_defaults(service: str) -> None:
    shown = dict(re.findall(r"^#(LANEWAY_\w+)=(.+)$", EXAMPLE, re.MULTILINE))
    defaults = dict(defaults_of(SETTINGS[service]))
    for name in shown.keys() & defaults.keys() - compose.SIMULATED.keys() - CHOSEN_BY_THE_FILE:
        assert type(defaults[name])(shown[name]) == defaults[name], name


def test_a_worker_may_finish_its_runs_before_it_is_killed() -> None:
    (grace,) = re.findall(r"LANEWAY_WORKER_STOP_GRACE:-(\d+)s", TEXT)
    drained = WorkerSettings.model_fields["grace_seconds"].default + 10
    assert int(grace) >= drained
    assert next(service for service in stack.SERVICES if service.name == "agent-worker").stop_seconds >= drained


def test_a_body_that_is_a_little_too_large_reaches_the_gateway() -> None:
    (kilobytes,) = re.findall(r"client_max_body_size (\d+)k;", (ROOT / "deploy/nginx/nginx.conf").read_text())
    assert MAX_BODY < int(kilobytes) * 1024 < 2 * MAX_BODY


def test_what_may_be_larger_reaches_the_gateway() -> None:
    (megabytes,) = re.findall(r"client_max_body_size (\d+)m;", (ROOT / "deploy/nginx/nginx.conf").read_text())
    assert max(MAX_BATCH_BODY, MAX_UPLOAD_BODY) < int(megabytes) * 1024 * 1024


def test_the_shown_definitions_are_those_that_the_job_applies(tmp_path: Path) -> None:
    exported = tmp_path / "definitions.json"
    assert apply.main(["--export", str(exported), "--catalogue", str(ROOT / "deploy/catalogue")]) == 0
    shown = json.loads((ROOT / "deploy/rabbitmq/definitions.json").read_text())
    assert shown == json.loads(exported.read_text()), (
        "run: .venv/bin/python -m common.messaging.apply --export deploy/rabbitmq/definitions.json"
    )


def test_every_image_of_the_file_can_be_built() -> None:
    built = {each["build"]["args"]["SERVICE"] for each in FILE["services"].values() if "build" in each}
    assert built == set(re.findall(r"^FROM runtime AS run-(\S+)", DOCKERFILE, re.MULTILINE))
    assert built == set(re.findall(r"^FROM tools AS for-(\S+)", DOCKERFILE, re.MULTILINE))


def test_images_are_built_by_the_same_uv_as_the_virtual_environment() -> None:
    (version,) = re.findall(r"^UV_VERSION=(\S+)", (ROOT / "deploy/local/setup.sh").read_text(), re.MULTILINE)
    assert f"uv=={version}\n" in DOCKERFILE


def test_the_base_images_are_those_that_are_looked_for() -> None:
    named = {each["image"] for each in FILE["services"].values()} | {"python:3.13-slim"}
    assert {image for image in named if not image.startswith("laneway/")} == set(compose.IMAGES)
