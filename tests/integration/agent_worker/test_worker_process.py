"""The whole worker as its process runs it, from its settings to an orderly stop."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from agent_worker.bootstrap import serve
from agent_worker.settings import CatalogueFiles, ProviderAccess, WorkerSettings
from common.errors import ConfigurationError
from common.settings import Health
from tests.integration.agent_worker.world import World
from tests.stage import CATALOGUE, eventually


def settings_of(world: World) -> WorkerSettings:
    access = ProviderAccess(api_key=SecretStr("any"), base_url=world.simulator)
    return WorkerSettings(
        rabbit=world.stage.rabbit("agent-worker"),
        postgres=world.stage.postgres("laneway_worker"),
        redis=world.stage.redis,
        catalogue={"dir": CATALOGUE},
        health=Health(host="127.0.0.1", port=0),
        anthropic=access,
        openai=ProviderAccess(api_key=SecretStr("any"), base_url=f"{world.simulator}/v1"),
        slots=10,
        grace_seconds=5,
    )


async def test_a_worker_whose_answers_are_simulated_says_so(world: World) -> None:
    stopping = asyncio.Event()
    stopping.set()
    with capture_logs() as logs:
        await serve(settings_of(world).model_copy(update={"simulated": True}), stopping)
    assert "providers.simulated" in {entry["event"] for entry in logs}


async def test_it_reports_its_room_and_takes_the_report_back_when_it_drains(world: World) -> None:
    stopping = asyncio.Event()
    process = asyncio.create_task(serve(settings_of(world), stopping))

    async def reported() -> dict[str, int]:
        row = await world.owner.fetchrow("SELECT slots, lanes FROM runtime.workers")
        return {"slots": row["slots"], **row["lanes"]} if row is not None else {}

    first = await eventually(reported)
    assert first == {"slots": 10, "enterprise": 10, "pro": 10, "free": 10}
    slow = world.task("[[sim tokens=60 tps=15]] hi")
    await world.submit(slow)

    async def with_a_run() -> bool:
        return (await reported()).get("free") == 9

    await world.until(with_a_run)
    stopping.set()

    async def gone() -> bool:
        return not await reported()

    await world.until(gone)
    assert not process.done(), "it begins nothing, and still has its run"
    assert (await world.heard.end(slow.task_id)).status == "completed"
    await asyncio.wait({process}, timeout=20)
    process.result()


async def test_it_serves_until_it_is_asked_to_stop_and_finishes_what_it_holds(world: World) -> None:
    stopping = asyncio.Event()
    process = asyncio.create_task(serve(settings_of(world), stopping))
    for agent in ("default", "analyst"):  # one of each provider
        task = world.task('[[sim tool=calculator:{"expression":"2 * 21"} text=done]] hi', agent=agent)
        await world.submit(task)
        end = await world.heard.end(task.task_id)
        assert (end.status, end.output, end.steps) == ("completed", "done", 2)

    slow = world.task("[[sim tokens=20 tps=20]] hi")
    await world.submit(slow)

    async def running() -> bool:
        return bool(await world.stream(slow))

    await world.until(running)
    stopping.set()
    late = world.task("hi")
    await asyncio.wait({process}, timeout=20)
    assert process.done()
    process.result()
    assert (await world.heard.end(slow.task_id)).status == "completed"
    await world.submit(late)
    assert await world.run_row(late) == {}


async def test_it_lends_what_others_do_not_need_and_runs_them_at_once_when_they_come(world: World) -> None:
    stopping = asyncio.Event()
    process = asyncio.create_task(serve(settings_of(world), stopping))
    slow = [world.task("[[sim ttft=60]] hi") for _ in range(12)]
    for task in slow:
        await world.submit(task)
    running = "SELECT count(*) FROM runtime.runs WHERE status = 'running' AND task_id = ANY ($1)"

    async def ten() -> bool:
        return bool(await world.owner.fetchval(running, [task.task_id for task in slow]) == 10)

    await world.until(ten)  # all slots, of which the tier has one by right
    quick = world.task("[[sim text=done]] hi", tier="enterprise")
    await world.submit(quick)
    assert (await world.heard.end(quick.task_id)).status == "completed"
    assert await ten()
    for task in slow:
        await world.cancel(task)
    for task in slow:
        assert (await world.heard.end(task.task_id)).status == "cancelled"
    stopping.set()
    await asyncio.wait({process}, timeout=20)
    process.result()


async def test_a_worker_of_one_lane_leaves_the_others_alone(world: World) -> None:
    stopping = asyncio.Event()
    process = asyncio.create_task(serve(settings_of(world).model_copy(update={"lanes": ("enterprise",)}), stopping))
    other = world.task("[[sim text=done]] hi", tier="free")
    own = world.task("[[sim text=done]] hi", tier="enterprise")
    await world.submit(other)
    await world.submit(own)
    assert (await world.heard.end(own.task_id)).status == "completed"
    assert await world.run_row(other) == {}
    stopping.set()
    await asyncio.wait({process}, timeout=20)
    process.result()


async def test_it_ends_by_itself_after_its_runs_and_what_it_holds_is_finished(world: World) -> None:
    stopping = asyncio.Event()
    settings = settings_of(world).model_copy(update={"retire_after_runs": 3, "grace_seconds": 60})
    process = asyncio.create_task(serve(settings, stopping))
    slow = world.task("[[sim tokens=60 tps=15]] hi")
    await world.submit(slow)

    async def running() -> bool:
        return bool(await world.owner.fetchval("SELECT count(*) FROM runtime.runs WHERE task_id = $1", slow.task_id))

    await world.until(running, 30)
    for _ in range(3):
        await world.submit(world.task("[[sim text=done]] hi"))
    async with asyncio.timeout(60):
        await stopping.wait()
    assert not process.done(), "it still has a run"
    assert (await world.heard.end(slow.task_id, 60)).status == "completed"
    async with asyncio.timeout(60):
        await process


async def test_a_new_key_takes_effect_without_a_restart(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, control: httpx2.AsyncClient
) -> None:
    monkeypatch.setenv("LANEWAY_SECRETS_DIR", str(tmp_path))
    monkeypatch.delenv("LANEWAY_ANTHROPIC_API_KEY", raising=False)
    secret = tmp_path / "laneway_anthropic_api_key"
    secret.write_text("invalid\n")
    stopping = asyncio.Event()
    process = asyncio.create_task(serve(settings_of(world), stopping))

    async def answered() -> tuple[str | None, list[str]]:
        task = world.task()
        await world.submit(task)
        end = await world.heard.end(task.task_id, deadline=30)
        return end.model, [fallback.reason for fallback in end.fallbacks]

    async def noticed() -> bool:
        return any(entry["event"] == "provider.keys" for entry in logs)

    async def left_alone() -> bool:
        return await answered() == ("gpt-5.4-mini", ["provider_unavailable"])

    with capture_logs() as logs:
        await eventually(noticed, 60)
    assert await answered() == ("gpt-5.4-mini", ["provider_refused_credentials"])
    await eventually(left_alone, 60)  # what the old key did is not held against the new one
    with capture_logs() as logs:
        secret.write_text("invalid,another\n")
        await eventually(noticed, 60)
    assert await answered() == ("claude-haiku-4-5", []), "the one that is refused is stood in for by the other"
    stopping.set()
    await asyncio.wait_for(process, 30)


async def test_a_model_without_a_price_is_told_at_start(world: World, tmp_path: Path) -> None:
    for file in CATALOGUE.glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    models = tmp_path / "models.yaml"
    models.write_text(models.read_text().replace("gpt-5.4-mini", "gpt-9"))
    (tmp_path / "agents.yaml").write_text((tmp_path / "agents.yaml").read_text().replace("gpt-5.4-mini", "gpt-9"))
    settings = settings_of(world).model_copy(update={"catalogue": CatalogueFiles(dir=tmp_path)})
    with pytest.raises(ConfigurationError, match=r"no price now: 'gpt-9' of openai\. .*laneway-billing prices apply"):
        await serve(settings, asyncio.Event())
