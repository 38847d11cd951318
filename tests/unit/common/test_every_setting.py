"""Every setting of every process: what is out of bounds, and an address that is none, ends it with one sentence."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from agent_worker.settings import WorkerSettings
from billing.settings import BillingSettings
from common.messaging.apply import ApplySettings
from common.settings import PREFIX, ServiceSettings, load
from deploy.migrations.__main__ import MigrateSettings
from deploy.seed import SeedSettings
from gateway.settings import Settings as GatewaySettings
from persister.settings import PersisterSettings

PROCESSES: tuple[type[ServiceSettings], ...] = (
    GatewaySettings,
    WorkerSettings,
    PersisterSettings,
    BillingSettings,
    ApplySettings,
    MigrateSettings,
    SeedSettings,
)
GOOD = {
    "LANEWAY_RABBIT_URL": "amqp://user:word@host/laneway",
    "LANEWAY_RABBIT_MANAGEMENT_URL": "http://admin:word@host:15672",
    "LANEWAY_POSTGRES_DSN": "postgresql://role:word@host/laneway",
    "LANEWAY_POSTGRES_ADMIN_DSN": "postgresql://postgres:word@host/laneway",
    "LANEWAY_REDIS_STATE_URL": "redis://:word@host/0",
    "LANEWAY_REDIS_CACHE_URL": "redis://:word@host/1",
    "LANEWAY_CATALOGUE_DIR": "deploy/catalogue",
    "LANEWAY_ANTHROPIC_API_KEY": "key",
    "LANEWAY_OPENAI_API_KEY": "key",
    **{
        f"LANEWAY_{server}_PASSWORD_{service}": "word"
        for server in ("RABBIT", "POSTGRES")
        for service in ("GATEWAY", "AGENT_WORKER", "PERSISTER", "BILLING")
    },
}
ADDRESSES = ("_URL", "_DSN", "_ENDPOINT")


@dataclass(frozen=True)
class Setting:
    """One variable of one process."""

    process: type[ServiceSettings]
    variable: str
    field: FieldInfo

    def __str__(self) -> str:
        return f"{self.process.__module__.partition('.')[0]}-{self.variable}"

    @property
    def is_number(self) -> bool:
        return bool({int, float} & {self.field.annotation, *get_args(self.field.annotation)})


def _settings(process: type[ServiceSettings]) -> Iterator[Setting]:
    for name, field in process.model_fields.items():
        groups = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        group = next((kind for kind in groups if issubclass(kind, BaseModel)), None)
        if group is None:
            yield Setting(process, f"{PREFIX}{name}".upper(), field)
        else:
            for inner, inner_field in group.model_fields.items():
                yield Setting(process, f"{PREFIX}{name}_{inner}".upper(), inner_field)


EVERY = [setting for process in PROCESSES for setting in _settings(process)]
NUMBERS = [setting for setting in EVERY if setting.is_number]
REQUIRED = [each for each in EVERY if each.field.is_required() and not each.variable.endswith("_API_KEY")]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    for name, value in {**GOOD, "LANEWAY_SECRETS_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def _refusal(setting: Setting, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        load(setting.process)
    assert stopped.value.code == 2
    (sentence,) = capsys.readouterr().err.splitlines()
    return str(sentence)


@pytest.mark.parametrize("process", PROCESSES)
def test_what_is_good_is_taken(process: type[ServiceSettings]) -> None:
    load(process)


@pytest.mark.parametrize("setting", NUMBERS, ids=str)
@pytest.mark.parametrize("value", ["inf", "-inf", "nan", "1e400", "-1", "99999999999", "many"])
def test_a_number_is_finite_and_bounded(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], setting: Setting, value: str
) -> None:
    environment.setenv(setting.variable, value)
    assert _refusal(setting, capsys).startswith(f"{setting.variable} is not usable: ")


@pytest.mark.parametrize("setting", [each for each in EVERY if each.variable.endswith(ADDRESSES)], ids=str)
@pytest.mark.parametrize(
    "value", ["nonsense", "http:/host", "ftp://host", "amqp://", "http://", "{scheme}://u:p@host:notaport", "//"]
)
def test_an_address_is_one(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], setting: Setting, value: str
) -> None:
    scheme = GOOD.get(setting.variable, "http:").partition(":")[0]
    environment.setenv(setting.variable, value.format(scheme=scheme))
    assert _refusal(setting, capsys).startswith(
        f"{setting.variable} is not usable: it must be an address like {scheme}"
    )


@pytest.mark.parametrize("setting", REQUIRED, ids=str)
def test_what_is_empty_is_not_set(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], setting: Setting
) -> None:
    environment.setenv(setting.variable, "")
    assert _refusal(setting, capsys).startswith(f"{setting.variable} is not set: ")


@pytest.mark.parametrize("setting", [each for each in EVERY if each.field.annotation is SecretStr], ids=str)
def test_no_secret_is_repeated(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], setting: Setting
) -> None:
    environment.setenv(setting.variable, "hush hush")
    try:
        load(setting.process)
    except SystemExit:
        assert "hush" not in capsys.readouterr().err


@pytest.mark.parametrize("level", ["LOUD", "NOTSET", "10"])
def test_a_level_is_one_of_the_five(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], level: str
) -> None:
    environment.setenv("LANEWAY_TELEMETRY_LOG_LEVEL", level)
    assert "'DEBUG', 'INFO', 'WARNING', 'ERROR' or 'CRITICAL'" in _refusal(EVERY[0], capsys)


@pytest.mark.parametrize(
    "dsn", ["postgresql://a,b:5433/laneway", "postgresql:///laneway?host=/run/postgresql", "postgres://[::1]:5432/x"]
)
def test_every_form_of_a_database_address_is_taken(environment: pytest.MonkeyPatch, dsn: str) -> None:
    environment.setenv("LANEWAY_POSTGRES_DSN", dsn)
    assert load(PersisterSettings).postgres.dsn.get_secret_value() == dsn
