"""Settings in small groups, composed by each service; read from the environment and from secret files.

Every name is `LANEWAY_<GROUP>_<FIELD>`, e.g. `LANEWAY_RABBIT_URL`. A directory named by `LANEWAY_SECRETS_DIR`
(default `/run/secrets`) may hold files of the same names in lower case; the environment wins over them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

PREFIX = "LANEWAY_"
_EXIT_USAGE = 2


class Rabbit(BaseModel):
    """The broker, with this service's own user in the URL (`amqp://user:password@host:port/vhost`)."""

    url: SecretStr
    publish_timeout: float = Field(default=2.5, gt=0, description="seconds for a whole publish, confirm included")
    heartbeat: int = Field(default=15, ge=5, description="seconds; a dead peer is noticed after 3 × (this + 1)")


class Postgres(BaseModel):
    """The database, with this service's own role in the DSN."""

    dsn: SecretStr
    pool_size: int = Field(default=8, ge=1)
    timeout: float = Field(default=2.5, gt=0, description="seconds for a statement, waiting for a connection included")


class Redis(BaseModel):
    """Two instances: `state` is never evicted, `cache` may be at any time."""

    state_url: SecretStr
    cache_url: SecretStr | None = Field(default=None, description="nothing of this version uses it")
    timeout: float = Field(default=0.5, gt=0, description="seconds for one command or pipeline")


class Telemetry(BaseModel):
    """Logs, traces, and the HTTP port of health and metrics."""

    log_level: str = "INFO"
    otlp_endpoint: str | None = Field(default=None, description="OTLP/HTTP base URL; unset: traces are not exported")


class Health(BaseModel):
    """Where `/health/*` and `/metrics` are served by services that serve nothing else."""

    host: str = "0.0.0.0"  # noqa: S104 - a container's probe comes from outside of it
    port: int = Field(default=8080, ge=0, le=65535)


class _SecretFiles(NestedSecretsSettingsSource):
    """An empty file is none: a container has its files whether or not there was something to put into them."""

    @classmethod
    def load_secrets(cls, path: Path) -> dict[str, str]:
        """The files' contents by their names."""
        return {name: content for name, content in super().load_secrets(path).items() if content}


class ServiceSettings(BaseSettings):
    """Base of each service's settings: sources, prefix, and the groups that every service has."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="_", env_nested_max_split=1, secrets_dir_missing="ok", extra="ignore"
    )
    telemetry: Telemetry = Telemetry()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment first, then secret files."""
        directory = Path(os.environ.get(f"{PREFIX}SECRETS_DIR", "/run/secrets"))
        return (
            init_settings,
            env_settings,
            _SecretFiles(file_secret_settings, secrets_dir=directory, secrets_dir_missing="ok"),
        )


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load(settings: type[SettingsT]) -> SettingsT:
    """Read the settings, or end the process: exit code 2 and one sentence for each thing to put right."""
    try:
        return settings()
    except ValidationError as error:
        for detail in error.errors():
            for location in _variables(settings, detail["loc"]):
                sys.stderr.write(f"{_sentence(location, detail['type'], detail['msg'])}\n")
    except SettingsError as error:
        sys.stderr.write(f"The settings cannot be read: {error}.\n")
    raise SystemExit(_EXIT_USAGE)


def _variables(settings: type[BaseSettings], location: tuple[int | str, ...]) -> list[tuple[int | str, ...]]:
    """Of a group that is missing as a whole: the fields that it cannot do without, which are what can be set."""
    group = settings.model_fields[str(location[0])].annotation if len(location) == 1 else None
    if not (isinstance(group, type) and issubclass(group, BaseModel)):
        return [location]
    return [(*location, name) for name, field in group.model_fields.items() if field.is_required()] or [location]


def _sentence(location: tuple[int | str, ...], kind: str, message: str) -> str:
    name = PREFIX + "_".join(str(part) for part in location).upper()
    if kind == "missing":
        return f"{name} is not set: set it in the environment or in a secret file (see .env.example)."
    if not location:
        return f"The settings contradict each other: {message.removeprefix('Value error, ')}."
    return f"{name} is not usable: {message}."
