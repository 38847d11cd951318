"""The demo tenants' keys: those of the file are those of the database, whatever befell the job."""

from __future__ import annotations

import stat
from pathlib import Path

import psycopg
import pytest

from deploy import seed
from deploy.local.envfile import read_env
from gateway.keys import ApiKey
from tests.stage import Stage


@pytest.fixture
def keys(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "demo-keys.env"
    monkeypatch.setenv("LANEWAY_POSTGRES_ADMIN_DSN", stage.admin_dsn)
    monkeypatch.setenv("LANEWAY_CATALOGUE_DIR", str(stage.catalogue))
    monkeypatch.setenv("LANEWAY_SEED_DEMO_FILE", str(file))
    return file


def _are_known(stage: Stage, keys: Path) -> bool:
    with psycopg.connect(stage.admin_dsn) as connection:
        stored: dict[str, bytes] = dict(
            connection.execute("SELECT key_id, secret_hash FROM identity.api_keys").fetchall()
        )
    named = [ApiKey.parse(token) for token in read_env(keys).values()]
    return len(named) == len(seed.PLANS) and all(key and key.matches(stored[key.key_id]) for key in named)


def test_the_keys_are_made_once_and_for_their_owner_alone(stage: Stage, keys: Path) -> None:
    assert seed.main() == 0
    made = keys.read_text()
    assert _are_known(stage, keys)
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert seed.main() == 0
    assert keys.read_text() == made
    assert list(keys.parent.iterdir()) == [keys]


def test_keys_that_were_not_committed_are_not_kept(stage: Stage, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(connection: psycopg.Connection) -> None:
        connection.close()
        raise psycopg.OperationalError("the server went away")

    with monkeypatch.context() as patched:
        patched.setattr(psycopg.Connection, "commit", fail)
        assert seed.main() == 1
    assert not keys.exists()
    assert seed.main() == 0
    assert _are_known(stage, keys)


def test_keys_that_could_not_be_kept_are_made_anew(stage: Stage, keys: Path) -> None:
    aside = keys.with_name(f"{keys.name}.new")
    aside.mkdir()
    assert seed.main() == 1
    aside.rmdir()
    assert seed.main() == 0
    assert _are_known(stage, keys)
