"""What is wrong with the settings is said in sentences that name the variable; nothing has a default secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from common.settings import Postgres, Rabbit, Redis, ServiceSettings, load


class Settings(ServiceSettings):
    rabbit: Rabbit
    postgres: Postgres


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LANEWAY_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("LANEWAY_RABBIT_URL", "amqp://user:word@broker/laneway")
    monkeypatch.setenv("LANEWAY_POSTGRES_DSN", "postgresql://user:word@database/laneway")


def _sentences(capsys: pytest.CaptureFixture[str]) -> list[str]:
    with pytest.raises(SystemExit) as stopped:
        load(Settings)
    assert stopped.value.code == 2
    return capsys.readouterr().err.splitlines()


def test_fields_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANEWAY_RABBIT_PUBLISH_TIMEOUT", "7.5")
    settings = load(Settings)
    assert settings.rabbit.publish_timeout == 7.5
    assert settings.rabbit.url.get_secret_value() == "amqp://user:word@broker/laneway"


def test_secrets_are_read_from_files_and_the_environment_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "laneway_postgres_dsn").write_text("postgresql://from:file@database/laneway", encoding="utf-8")
    (tmp_path / "laneway_rabbit_url").write_text("amqp://from:file@broker/laneway", encoding="utf-8")
    monkeypatch.delenv("LANEWAY_POSTGRES_DSN")
    settings = load(Settings)
    assert "from:file" in settings.postgres.dsn.get_secret_value()
    assert "user:word" in settings.rabbit.url.get_secret_value()


def test_an_empty_file_is_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "laneway_postgres_dsn").write_text("\n", encoding="utf-8")
    monkeypatch.delenv("LANEWAY_POSTGRES_DSN")
    assert [sentence.partition(" ")[0] for sentence in _sentences(capsys)] == ["LANEWAY_POSTGRES_DSN"]


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("LANEWAY_POSTGRES_DSN")
    monkeypatch.delenv("LANEWAY_RABBIT_URL")
    assert [sentence.partition(" ")[0] for sentence in _sentences(capsys)] == [
        "LANEWAY_RABBIT_URL",
        "LANEWAY_POSTGRES_DSN",
    ]


def test_one_field_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LANEWAY_POSTGRES_DSN")
    monkeypatch.setenv("LANEWAY_POSTGRES_POOL_SIZE", "4")
    (sentence,) = _sentences(capsys)
    assert (
        sentence == "LANEWAY_POSTGRES_DSN is not set: set it in the environment or in a secret file (see .env.example)."
    )


def test_what_is_not_usable_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LANEWAY_POSTGRES_POOL_SIZE", "none-of-your-business")
    (sentence,) = _sentences(capsys)
    assert sentence.startswith("LANEWAY_POSTGRES_POOL_SIZE is not usable: ")
    assert "none-of-your-business" not in sentence


@pytest.mark.parametrize("group", [Rabbit, Postgres, Redis])
def test_no_group_has_a_default_secret(group: type[Rabbit | Postgres | Redis]) -> None:
    with pytest.raises(ValidationError):
        group.model_validate({})


def test_secrets_do_not_show() -> None:
    assert "word" not in repr(load(Settings))
