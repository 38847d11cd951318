from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent_worker.bootstrap import serve
from agent_worker.settings import WorkerSettings
from common.errors import ConfigurationError
from common.messaging.topology import DELIVERY_LIMIT
from common.settings import load

CATALOGUE = Path(__file__).parents[3] / "deploy" / "catalogue"
COMPLETE = {
    "LANEWAY_RABBIT_URL": "amqp://u:p@127.0.0.1:1/v",
    "LANEWAY_POSTGRES_DSN": "postgresql://u:p@127.0.0.1:1/d",
    "LANEWAY_REDIS_STATE_URL": "redis://127.0.0.1:1/0",
    "LANEWAY_REDIS_CACHE_URL": "redis://127.0.0.1:1/1",
    "LANEWAY_CATALOGUE_DIR": str(CATALOGUE),
    "LANEWAY_OPENAI_API_KEY": "k",
    "LANEWAY_SECRETS_DIR": "/nonexistent",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv("LANEWAY_ANTHROPIC_API_KEY", raising=False)
    for name, value in COMPLETE.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        load(WorkerSettings)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_complete(environment: pytest.MonkeyPatch) -> None:
    settings = load(WorkerSettings)
    assert settings.openai is not None
    assert settings.anthropic is None
    assert "k" not in repr(settings.openai.api_key)


@pytest.mark.parametrize("key", [None, ""])
def test_no_provider(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, key: str | None
) -> None:
    environment.delenv("LANEWAY_OPENAI_API_KEY")
    if key is not None:
        environment.setenv("LANEWAY_OPENAI_API_KEY", key)
        (tmp_path / "laneway_anthropic_api_key").write_text(key)
        environment.setenv("LANEWAY_SECRETS_DIR", str(tmp_path))
    assert refusal(capsys) == (
        "No model provider has a key: set LANEWAY_ANTHROPIC_API_KEY or LANEWAY_OPENAI_API_KEY.\n"
    )


@pytest.mark.parametrize("name", ["LANEWAY_RABBIT_URL", "LANEWAY_POSTGRES_DSN", "LANEWAY_CATALOGUE_DIR"])
def test_a_missing_setting_is_named(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    environment.delenv(name)
    assert name.rpartition("_")[0] in refusal(capsys)


@pytest.mark.parametrize(("name", "value"), [("LANEWAY_SLOTS", "0"), ("LANEWAY_LEASE_SECONDS", "soon")])
def test_an_unusable_setting_is_named(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    environment.setenv(name, value)
    assert refusal(capsys).startswith(f"{name} is not usable: ")


async def test_the_lanes_that_are_served_are_named_with_commas(environment: pytest.MonkeyPatch) -> None:
    assert load(WorkerSettings).lanes is None
    environment.setenv("LANEWAY_LANES", "enterprise, pro")
    assert load(WorkerSettings).lanes == ("enterprise", "pro")
    environment.setenv("LANEWAY_LANES", "gold")
    with pytest.raises(ConfigurationError, match="LANEWAY_LANES names 'gold'"):
        await serve(load(WorkerSettings), asyncio.Event())


async def test_a_contradiction_is_told_before_anything_is_connected(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("LANEWAY_SLOTS", "2")
    with pytest.raises(ConfigurationError, match="LANEWAY_SLOTS is 2, but each of the 3 tiers needs one slot"):
        await serve(load(WorkerSettings), asyncio.Event())


def test_a_run_is_given_up_by_its_worker_before_the_broker_gives_up_its_message(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("LANEWAY_MAX_ATTEMPTS", str(DELIVERY_LIMIT))
    assert refusal(capsys).startswith("LANEWAY_MAX_ATTEMPTS is not usable")


def test_the_networks_that_may_be_fetched_from_are_named_with_commas(
    environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(WorkerSettings).fetch_networks == ()
    environment.setenv("LANEWAY_FETCH_NETWORKS", "10.1.0.0/16, fd00:1::/32")
    assert [str(network) for network in load(WorkerSettings).fetch_networks] == ["10.1.0.0/16", "fd00:1::/32"]
    for wrong in ("10.1.2.3/16", "intranet", "10.0.0.0/8,"):
        environment.setenv("LANEWAY_FETCH_NETWORKS", wrong)
        assert refusal(capsys).startswith("LANEWAY_FETCH_NETWORKS")


async def test_a_broken_tool_of_a_package_is_told_before_anything_is_connected(
    environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    about = tmp_path / "acme_tools-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-tools\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[laneway.tools]\nweather = no_such_module:weather\n")
    environment.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match="The tool 'weather' of the package 'acme-tools'"):
        await serve(load(WorkerSettings), asyncio.Event())
