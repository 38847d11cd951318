"""What `make up` fills docker-compose.yml in with."""

import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local import compose
from deploy.local.envfile import read_env
from deploy.local.instance import REPOSITORY
from deploy.local.stack import MODEL_KEYS


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(compose, "BASE", tmp_path)
    monkeypatch.setattr(compose, "LOCAL_FILE", tmp_path / "compose.local.json")
    for name in (*MODEL_KEYS, *compose.PUBLISHED):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_passwords_are_made_once_and_only_their_owner_reads_them(base: Path) -> None:
    compose.configure(compose.PROJECT)
    file = base / "compose.env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    made = read_env(file)
    assert len({made[name] for name in compose.SECRET_NAMES}) == len(compose.SECRET_NAMES)
    compose.configure(compose.PROJECT)
    assert read_env(file) == made


def test_each_project_has_passwords_of_its_own(base: Path) -> None:
    compose.configure(compose.PROJECT)
    compose.configure(f"{compose.PROJECT}-demo")
    ours, others = read_env(base / "compose.env"), read_env(base / "compose-demo.env")
    assert not {ours[name] for name in compose.SECRET_NAMES} & {others[name] for name in compose.SECRET_NAMES}


def test_without_a_model_key_the_simulator_answers(base: Path) -> None:
    compose.configure(compose.PROJECT)
    assert read_env(base / "compose.env").items() >= compose.SIMULATED.items()


def test_with_a_model_key_it_does_not_and_the_key_is_not_written_down(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compose.configure(compose.PROJECT)
    monkeypatch.setenv("LANEWAY_OPENAI_API_KEY", "a-real-key")
    compose.configure(compose.PROJECT)
    assert not read_env(base / "compose.env").keys() & compose.SIMULATED.keys()
    assert "a-real-key" not in (base / "compose.env").read_text()


def test_other_projects_take_free_ports_and_a_chosen_port_is_taken(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compose.configure(f"{compose.PROJECT}-demo")
    assert {read_env(base / "compose-demo.env")[name] for name in compose.PUBLISHED} == {"0"}
    monkeypatch.setenv("LANEWAY_PUBLISH_HTTP", "8123")
    compose.configure(compose.PROJECT)
    assert read_env(base / "compose.env")["LANEWAY_PUBLISH_HTTP"] == "8123"


def test_what_is_published_besides_is_on_the_loopback_interface(base: Path) -> None:
    compose.configure(compose.PROJECT)
    services = json.loads((base / "compose.local.json").read_text())["services"]
    assert all(port.startswith("127.0.0.1::") for each in services.values() for port in each["ports"])


def test_each_folder_has_a_project_of_its_own(tmp_path: Path) -> None:
    program = "from deploy.local import compose; print(compose.PROJECT)"
    shutil.copytree(REPOSITORY / "deploy/local", tmp_path / "other/deploy/local")
    names = [
        subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True).stdout
        for folder in (REPOSITORY, tmp_path / "other")
    ]
    assert names[0] == f"{compose.PROJECT}\n" != names[1]
