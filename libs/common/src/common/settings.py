"""Settings in small groups, composed by each service; read from the environment and from secret files.

Every name is `LANEWAY_<GROUP>_<FIELD>`, e.g. `LANEWAY_RABBIT_URL`. A directory named by `LANEWAY_SECRETS_DIR`
(default `/run/secrets`) may hold files of the same names in lower case; the environment wins over them. What is empty,
in either, is not set.

What a value may be is said by the types below, so that a wrong one is told at start, not at the first use of it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NestedSecretsSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from common.addresses import Network

PREFIX = "LANEWAY_"
_EXIT_USAGE = 2


_AddressT = TypeVar("_AddressT", str, SecretStr)


def _address(example: str, *more_schemes: str) -> AfterValidator:
    schemes = (urlsplit(example).scheme, *more_schemes)

    def check(address: _AddressT) -> _AddressT:
        text = address if isinstance(address, str) else address.get_secret_value()
        if not _is_address(text, schemes):  # what is said never repeats it: it may hold a password
            raise ValueError(f"it must be an address like {example}")
        return address

    return AfterValidator(check)


def _is_address(text: str, schemes: tuple[str, ...]) -> bool:
    """PostgreSQL's may name several hosts, or none and the directory of its socket instead."""
    try:
        parts = urlsplit(text)
        ports = [urlsplit(f"//{host}").port for host in parts.netloc.rpartition("@")[2].split(",")]
    except ValueError:
        return False
    named = parts.hostname or "host=" in parts.query
    return parts.scheme in schemes and bool(named) and 0 not in ports and len(text.split()) == 1


def _check_key(key: SecretStr) -> SecretStr:
    if not all("!" <= character <= "~" for character in key.get_secret_value()):
        raise ValueError("a key has no spaces and no special characters")
    return key


def _parts(value: object) -> object:
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.upper() if isinstance(value, str) else value


RabbitUrl = Annotated[SecretStr, _address("amqp://user:password@host:5672/vhost", "amqps")]
PostgresDsn = Annotated[SecretStr, _address("postgresql://role:password@host:5432/database", "postgres")]
RedisUrl = Annotated[SecretStr, _address("redis://:password@host:6379/0", "rediss")]
HttpUrl = Annotated[str, _address("http://host:8080", "https")]
SecretHttpUrl = Annotated[SecretStr, _address("http://user:password@host:8080", "https")]
ApiKey = Annotated[SecretStr, AfterValidator(_check_key)]
"""Goes into an HTTP header."""
SEPARATED = BeforeValidator(_parts)
"""Several values with commas between them."""
Networks = Annotated[tuple[Network, ...], NoDecode, SEPARATED]
LogLevel = Annotated[Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], BeforeValidator(_upper)]
Seconds = Annotated[float, Field(ge=0, le=86_400, allow_inf_nan=False)]
"""At most a day: a wait that never ends is no setting."""
Port = Annotated[int, Field(ge=0, le=65_535)]


class Rabbit(BaseModel):
    """The broker, with this service's own user in the URL (`amqp://user:password@host:port/vhost`)."""

    url: RabbitUrl
    publish_timeout: Seconds = Field(default=2.5, gt=0, description="seconds for a whole publish, confirm included")
    heartbeat: int = Field(default=15, ge=5, le=600, description="seconds; a dead peer is noticed after 3 × (this + 1)")


class Postgres(BaseModel):
    """The database, with this service's own role in the DSN."""

    dsn: PostgresDsn
    pool_size: int = Field(default=8, ge=1, le=1000)
    timeout: Seconds = Field(
        default=2.5, gt=0, description="seconds for a statement, waiting for a connection included"
    )


class Redis(BaseModel):
    """Two instances: `state` is never evicted, `cache` may be at any time."""

    state_url: RedisUrl
    cache_url: RedisUrl | None = Field(default=None, description="unset: no response cache")
    timeout: Seconds = Field(default=0.5, gt=0, description="seconds for one command or pipeline")


class Telemetry(BaseModel):
    """Logs, traces, and the HTTP port of health and metrics."""

    log_level: LogLevel = "INFO"
    otlp_endpoint: HttpUrl | None = Field(
        default=None, description="OTLP/HTTP base URL; unset: traces are not exported"
    )


class Health(BaseModel):
    """Where `/health/*` and `/metrics` are served by services that serve nothing else."""

    host: str = "0.0.0.0"  # noqa: S104 - a container's probe comes from outside of it
    port: Port = 8080


class _SecretFiles(NestedSecretsSettingsSource):
    """An empty file is none: a container has its files whether or not there was something to put into them."""

    @classmethod
    def load_secrets(cls, path: Path) -> dict[str, str]:
        """The files' contents by their names."""
        return {name: content for name, content in super().load_secrets(path).items() if content}


class ServiceSettings(BaseSettings):
    """Base of each service's settings: sources, prefix, and the groups that every service has."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_nested_delimiter="_",
        env_nested_max_split=1,
        env_ignore_empty=True,
        secrets_dir_missing="ok",
        extra="ignore",
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
    message = message.removeprefix("Value error, ")
    return f"{name} is not usable: {message}." if location else message
